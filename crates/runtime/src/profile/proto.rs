//! The part of XLA's compiled program that a profile reads, field numbers as in openxla/xla
//! (`xla/service/hlo.proto`, `xla/xla_data.proto`). Subsets by hand; what is not named is skipped.
//! Knows nothing of what the fields are good for.

use std::collections::HashMap;

/// `HloModuleProtoWithConfig`, the format `hlo_with_config`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ModuleWithConfig {
    #[prost(message, optional, tag = "1")]
    pub module: Option<HloModule>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct HloModule {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, repeated, tag = "3")]
    pub computations: Vec<HloComputation>,
    #[prost(int64, tag = "6")]
    pub entry_computation_id: i64,
    #[prost(message, optional, tag = "7")]
    pub schedule: Option<Schedule>,
    #[prost(message, optional, tag = "17")]
    pub stack_frames: Option<StackFrames>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct HloComputation {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, repeated, tag = "2")]
    pub instructions: Vec<HloInstruction>,
    #[prost(int64, tag = "5")]
    pub id: i64,
    #[prost(int64, tag = "6")]
    pub root_id: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct HloInstruction {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub opcode: String,
    #[prost(message, optional, tag = "3")]
    pub shape: Option<Shape>,
    #[prost(message, optional, tag = "7")]
    pub metadata: Option<Metadata>,
    #[prost(message, optional, tag = "8")]
    pub literal: Option<Literal>,
    #[prost(int64, tag = "9")]
    pub parameter_number: i64,
    #[prost(int64, tag = "13")]
    pub tuple_index: i64,
    #[prost(message, optional, tag = "15")]
    pub window: Option<Window>,
    #[prost(message, optional, tag = "16")]
    pub convolution: Option<ConvolutionDimensions>,
    #[prost(string, tag = "28")]
    pub custom_call_target: String,
    #[prost(message, optional, tag = "30")]
    pub dot: Option<DotDimensions>,
    #[prost(int64, tag = "35")]
    pub id: i64,
    #[prost(int64, repeated, tag = "36")]
    pub operand_ids: Vec<i64>,
    #[prost(int64, repeated, tag = "38")]
    pub called_computation_ids: Vec<i64>,
    #[prost(bytes = "vec", tag = "43")]
    pub backend_config: Vec<u8>,
    #[prost(message, repeated, tag = "49")]
    pub replica_groups: Vec<ReplicaGroup>,
    #[prost(message, repeated, tag = "52")]
    pub source_target_pairs: Vec<SourceTarget>,
    #[prost(int64, tag = "58")]
    pub batch_group_count: i64,
    #[prost(string, tag = "63")]
    pub comparison_direction: String,
    #[prost(message, optional, tag = "87")]
    pub collective_devices: Option<CollectiveDevices>,
    /// Newer compilers write the devices of a collective in one of the next two instead.
    #[prost(message, optional, tag = "92")]
    pub iota_groups: Option<IotaGroups>,
    #[prost(message, optional, tag = "93")]
    pub mesh_groups: Option<MeshGroups>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Shape {
    #[prost(int32, tag = "2")]
    pub element_type: i32,
    #[prost(int64, repeated, tag = "3")]
    pub dimensions: Vec<i64>,
    #[prost(message, repeated, tag = "4")]
    pub tuple_shapes: Vec<Shape>,
    #[prost(message, optional, tag = "5")]
    pub layout: Option<Layout>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Layout {
    #[prost(int64, repeated, tag = "1")]
    pub minor_to_major: Vec<i64>,
    #[prost(message, repeated, tag = "6")]
    pub tiles: Vec<Tile>,
    #[prost(int64, tag = "7")]
    pub element_size_in_bits: i64,
    #[prost(int64, tag = "8")]
    pub memory_space: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Tile {
    #[prost(int64, repeated, tag = "1")]
    pub dimensions: Vec<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Metadata {
    #[prost(string, tag = "2")]
    pub op_name: String,
    #[prost(string, tag = "3")]
    pub source_file: String,
    #[prost(int32, tag = "4")]
    pub source_line: i32,
    #[prost(int32, tag = "15")]
    pub stack_frame_id: i32,
}

/// Only the types that loops count with.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Literal {
    #[prost(int32, repeated, tag = "4")]
    pub s32s: Vec<i32>,
    #[prost(int64, repeated, tag = "5")]
    pub s64s: Vec<i64>,
    #[prost(uint32, repeated, tag = "6")]
    pub u32s: Vec<u32>,
    #[prost(uint64, repeated, tag = "7")]
    pub u64s: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Window {
    #[prost(message, repeated, tag = "1")]
    pub dimensions: Vec<WindowDimension>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct WindowDimension {
    #[prost(int64, tag = "1")]
    pub size: i64,
    #[prost(int64, tag = "2")]
    pub stride: i64,
    #[prost(int64, tag = "3")]
    pub padding_low: i64,
    #[prost(int64, tag = "5")]
    pub window_dilation: i64,
    #[prost(int64, tag = "6")]
    pub base_dilation: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ConvolutionDimensions {
    #[prost(int64, tag = "3")]
    pub kernel_input_feature: i64,
    #[prost(int64, tag = "9")]
    pub output_batch: i64,
    #[prost(int64, tag = "10")]
    pub output_feature: i64,
    #[prost(int64, repeated, tag = "11")]
    pub input_spatial: Vec<i64>,
    #[prost(int64, repeated, tag = "12")]
    pub output_spatial: Vec<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct DotDimensions {
    #[prost(int64, repeated, tag = "1")]
    pub lhs_contracting: Vec<i64>,
    #[prost(int64, repeated, tag = "3")]
    pub lhs_batch: Vec<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ReplicaGroup {
    #[prost(int64, repeated, tag = "1")]
    pub replica_ids: Vec<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct CollectiveDevices {
    #[prost(message, repeated, tag = "1")]
    pub replica_groups: Vec<ReplicaGroup>,
    #[prost(message, optional, tag = "2")]
    pub iota: Option<IotaGroups>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct IotaGroups {
    #[prost(int64, tag = "2")]
    pub devices_per_group: i64,
    /// All devices, counted up, have this shape before `transpose` orders its axes anew.
    #[prost(int64, repeated, tag = "3")]
    pub reshape: Vec<i64>,
    #[prost(int32, repeated, tag = "4")]
    pub transpose: Vec<i32>,
}

/// Who sends to whom.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SourceTarget {
    #[prost(int64, tag = "1")]
    pub source: i64,
    #[prost(int64, tag = "2")]
    pub target: i64,
}

/// Groups along axes of a mesh.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MeshGroups {
    #[prost(message, optional, tag = "1")]
    pub mesh: Option<Mesh>,
    #[prost(message, repeated, tag = "2")]
    pub axes: Vec<AxisReference>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Mesh {
    #[prost(message, repeated, tag = "1")]
    pub axes: Vec<MeshAxis>,
    /// In the order of the mesh; counted up if there are none.
    #[prost(int64, repeated, tag = "2")]
    pub device_ids: Vec<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct MeshAxis {
    #[prost(int64, tag = "2")]
    pub size: i64,
}

/// An axis of the mesh by its index, or a part of it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AxisReference {
    #[prost(int64, tag = "1")]
    pub index: i64,
    #[prost(message, optional, tag = "2")]
    pub part: Option<AxisPart>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct AxisPart {
    /// The product of the parts of the axis that come before.
    #[prost(int64, tag = "1")]
    pub before: i64,
    #[prost(int64, tag = "2")]
    pub size: i64,
}

/// The order in which each computation's instructions run.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Schedule {
    #[prost(map = "int64, message", tag = "1")]
    pub sequences: HashMap<i64, Sequence>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Sequence {
    #[prost(int64, repeated, tag = "1")]
    pub instruction_ids: Vec<i64>,
}

/// Source locations as flat arrays that refer to each other by 1-based positions; 0 is none.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StackFrames {
    #[prost(string, repeated, tag = "1")]
    pub file_names: Vec<String>,
    #[prost(message, repeated, tag = "3")]
    pub file_locations: Vec<FileLocation>,
    #[prost(message, repeated, tag = "4")]
    pub frames: Vec<StackFrame>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct FileLocation {
    #[prost(int32, tag = "1")]
    pub file_name_id: i32,
    #[prost(int32, tag = "3")]
    pub line: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct StackFrame {
    #[prost(int32, tag = "1")]
    pub file_location_id: i32,
}
