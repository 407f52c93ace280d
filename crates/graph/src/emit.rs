//! StableHLO text in MLIR's generic form. Operations write themselves through an [`Emitter`]; this
//! file knows names, locations, regions and the module around them, and no operation.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::error::{ShapeError, source_path};
use crate::evaluate::Evaluator;
use crate::graph::{Function, Graph, MAIN, Node, RegionId, Tensor, ValueId, output};
use crate::kernels::Kernels;
use crate::literal::Literal;
use crate::program::{Input, Output, Program};
use crate::shape::Shape;
use crate::sharding::{Mesh, Role, ShardingRules};

/// What the text depends on besides the function itself.
#[derive(Clone, Debug)]
pub struct EmitOptions {
    pub mesh: Mesh,
    pub rules: ShardingRules,
    pub kernels: Kernels,
}

impl Default for EmitOptions {
    /// One device, portable kernels.
    fn default() -> EmitOptions {
        EmitOptions {
            mesh: Mesh::single(),
            rules: ShardingRules::transformer(),
            kernels: Kernels::default(),
        }
    }
}

/// A value in the text: its SSA name and its shape.
#[derive(Clone, Debug)]
pub struct Ssa {
    pub name: String,
    pub shape: Shape,
}

/// One use of an operation, as its `emit` sees it.
pub struct Call {
    pub operands: Vec<Ssa>,
    pub results: Vec<Ssa>,
    ids: Vec<ValueId>,
    location: String,
}

/// Private functions of the module, by what they compute, so that 32 equal attentions are one.
#[derive(Default)]
struct Module {
    names: HashMap<String, String>,
    texts: Vec<String>,
}

pub struct Emitter<'a> {
    function: &'a Function,
    options: &'a EmitOptions,
    module: &'a mut Module,
    locations: bool,
    names: HashMap<ValueId, String>,
    next_name: usize,
    /// How often each region has been written.
    inlined: HashMap<RegionId, usize>,
    indent: usize,
    text: String,
}

impl Function {
    /// Prints the function as a module with one public function `main`.
    pub fn program(&self, name: &str, options: &EmitOptions) -> Program {
        let shape = |value: &ValueId| self.values[value.0 as usize].shape.clone();
        let resolve = |role: Role, shape: &Shape| options.rules.resolve(role, shape, &options.mesh);
        let donated_to =
            |input: usize| self.outputs.iter().position(|o| o.donated_from == Some(input));
        let inputs = self.inputs.iter().enumerate().map(|(index, slot)| {
            let shape = shape(&slot.value);
            let sharding = resolve(slot.role, &shape);
            let name = slot.name.clone();
            Input { name, role: slot.role, sharding, shape, donated_to: donated_to(index) }
        });
        let results = &self.regions[MAIN.0 as usize].results;
        let outputs = self.outputs.iter().zip(results).map(|(slot, value)| {
            let shape = shape(value);
            let sharding = resolve(slot.role, &shape);
            Output { name: slot.name.clone(), role: slot.role, sharding, shape }
        });
        let (inputs, outputs): (Vec<Input>, Vec<Output>) = (inputs.collect(), outputs.collect());
        let text = |locations| module_text(self, name, options, &inputs, &outputs, locations);
        Program {
            name: name.to_string(),
            text: text(true),
            text_without_locations: text(false),
            mesh: options.mesh.clone(),
            inputs,
            outputs,
        }
    }
}

fn module_text(
    function: &Function,
    name: &str,
    options: &EmitOptions,
    inputs: &[Input],
    outputs: &[Output],
    locations: bool,
) -> String {
    let mut module = Module::default();
    let body = Emitter::new(function, options, &mut module, locations).body(2);
    let partitions = options.mesh.devices();
    let mut text = format!(
        "module @{} attributes {{mhlo.num_partitions = {partitions} : i32, mhlo.num_replicas = 1 : i32}} {{\n",
        identifier(name)
    );
    if partitions > 1 {
        let _ = writeln!(text, "  sdy.mesh @mesh = <{}>", options.mesh.sdy());
    }
    let parameters = &function.regions[MAIN.0 as usize].parameters;
    let arguments: Vec<String> = inputs
        .iter()
        .zip(parameters)
        .map(|(input, value)| {
            let mut attributes = Vec::new();
            if partitions > 1 {
                attributes.push(format!("sdy.sharding = {}", input.sharding.sdy()));
            }
            if let Some(output) = input.donated_to {
                attributes.push(format!("tf.aliasing_output = {output} : i32"));
            }
            let location = match locations {
                true => format!(" loc(\"{}\")", escape(&input.name)),
                false => String::new(),
            };
            let attributes = match attributes.is_empty() {
                true => String::new(),
                false => format!(" {{{}}}", attributes.join(", ")),
            };
            format!("%{}: {}{attributes}{location}", value.0, input.shape.mlir())
        })
        .collect();
    let results: Vec<String> = outputs
        .iter()
        .map(|output| match partitions > 1 {
            true => format!("{} {{sdy.sharding = {}}}", output.shape.mlir(), output.sharding.sdy()),
            false => output.shape.mlir(),
        })
        .collect();
    let _ = writeln!(
        text,
        "  func.func public @main({}) -> ({}) {{\n{body}  }}",
        arguments.join(", "),
        results.join(", ")
    );
    for private in module.texts {
        text.push_str(&private);
    }
    text.push_str("}\n");
    text
}

impl<'a> Emitter<'a> {
    fn new(
        function: &'a Function,
        options: &'a EmitOptions,
        module: &'a mut Module,
        locations: bool,
    ) -> Emitter<'a> {
        Emitter {
            function,
            options,
            module,
            locations,
            names: HashMap::new(),
            next_name: 0,
            inlined: HashMap::new(),
            indent: 0,
            text: String::new(),
        }
    }

    pub fn options(&self) -> &EmitOptions {
        self.options
    }

    /// The statements of the whole function with its return.
    fn body(mut self, level: usize) -> String {
        self.indent = level;
        let main = &self.function.regions[MAIN.0 as usize];
        for &parameter in &main.parameters {
            self.names.insert(parameter, format!("%{}", parameter.0));
        }
        for node in &main.nodes {
            self.node(node);
        }
        let results: Vec<Ssa> = main.results.iter().map(|&value| self.ssa(value)).collect();
        self.terminator("func.return", &results);
        self.text
    }

    fn ssa(&mut self, value: ValueId) -> Ssa {
        let name = self.names.entry(value).or_insert_with(|| format!("%{}", value.0)).clone();
        Ssa { name, shape: self.function.values[value.0 as usize].shape.clone() }
    }

    fn node(&mut self, node: &Node) {
        let location = match self.locations {
            true => {
                let place = node.location;
                let file = source_path(place.file());
                let line = format!("\"{file}\":{}:{}", place.line(), place.column());
                match node.scope.is_empty() {
                    true => format!(" loc({line})"),
                    false => format!(" loc(\"{}\"({line}))", escape(&node.scope)),
                }
            }
            false => String::new(),
        };
        let operands = node.operands.iter().map(|&value| self.ssa(value)).collect();
        let results = node.results.iter().map(|&value| self.ssa(value)).collect();
        let call = Call { operands, results, ids: node.results.clone(), location };
        node.operation.emit(self, &call);
    }

    /// A fresh value for an operation that needs more than one statement.
    pub fn temporary(&mut self, shape: Shape) -> Ssa {
        self.next_name += 1;
        Ssa { name: format!("%t{}", self.next_name), shape }
    }

    /// Lets the call's only result be its first operand: no statement at all.
    pub fn alias(&mut self, call: &Call) {
        if let (Some(&id), Some(operand)) = (call.ids.first(), call.operands.first()) {
            self.names.insert(id, operand.name.clone());
        }
    }

    /// Lets the call's results be other values.
    pub fn name_results(&mut self, call: &Call, values: &[Ssa]) {
        let names = values.iter().map(|value| value.name.clone());
        self.names.extend(call.ids.iter().copied().zip(names));
    }

    /// One statement of an operation whose operands and results are the call's.
    pub fn statement(&mut self, call: &Call, operation: &str, attributes: &str) {
        self.full(call, &call.results, operation, &call.operands, &[], attributes);
    }

    /// One statement with explicit results, operands and regions (each a text of blocks).
    pub fn full(
        &mut self,
        call: &Call,
        results: &[Ssa],
        operation: &str,
        operands: &[Ssa],
        regions: &[String],
        attributes: &str,
    ) {
        let names = |values: &[Ssa]| {
            values.iter().map(|value| value.name.as_str()).collect::<Vec<_>>().join(", ")
        };
        let types = |values: &[Ssa]| {
            values.iter().map(|value| value.shape.mlir()).collect::<Vec<_>>().join(", ")
        };
        let indent = " ".repeat(self.indent * 2);
        let assign = match results.is_empty() {
            true => String::new(),
            false => format!("{} = ", names(results)),
        };
        let regions = match regions.is_empty() {
            true => String::new(),
            false => {
                let blocks: Vec<String> =
                    regions.iter().map(|text| format!("{{\n{text}{indent}}}")).collect();
                format!(" ({})", blocks.join(", "))
            }
        };
        let attributes = match attributes.is_empty() {
            true => String::new(),
            false => format!(" {{{attributes}}}"),
        };
        let result_types = match results {
            [one] => one.shape.mlir(),
            many => format!("({})", types(many)),
        };
        let _ = writeln!(
            self.text,
            "{indent}{assign}\"{operation}\"({}){regions}{attributes} : ({}) -> {result_types}{}",
            names(operands),
            types(operands),
            call.location
        );
    }

    /// The text of a traced region as one block with the given arguments, which stand for the
    /// region's parameters followed by its captures.
    pub fn region(&mut self, region: RegionId, arguments: &[Ssa]) -> String {
        self.block(arguments, |emitter| {
            let results = emitter.inline(region, arguments);
            emitter.terminator("stablehlo.return", &results);
        })
    }

    /// Writes the statements of a region here, with `arguments` for its parameters and captures;
    /// returns its results.
    pub fn inline(&mut self, region: RegionId, arguments: &[Ssa]) -> Vec<Ssa> {
        let function = self.function;
        // A region that is written a second time must not define the same names again.
        let times = self.inlined.entry(region).or_insert(0);
        *times += 1;
        let times = *times;
        let region = &function.regions[region.0 as usize];
        if times > 1 {
            let results = region.nodes.iter().flat_map(|node| &node.results);
            self.names.extend(results.map(|&value| (value, format!("%{}_{times}", value.0))));
        }
        let captured = region.captures.iter().map(|&(_, parameter)| parameter);
        let parameters = region.parameters.iter().copied().chain(captured);
        for (parameter, argument) in parameters.zip(arguments) {
            self.names.insert(parameter, argument.name.clone());
        }
        for node in &region.nodes {
            self.node(node);
        }
        region.results.iter().map(|&value| self.ssa(value)).collect()
    }

    /// A block `^bb0(arguments):` whose statements `write` emits. No arguments, no label.
    pub fn block(&mut self, arguments: &[Ssa], write: impl FnOnce(&mut Self)) -> String {
        let outer = std::mem::take(&mut self.text);
        self.indent += 1;
        if !arguments.is_empty() {
            let arguments: Vec<String> =
                arguments.iter().map(|a| format!("{}: {}", a.name, a.shape.mlir())).collect();
            let indent = " ".repeat(self.indent * 2 - 1);
            let _ = writeln!(self.text, "{indent}^bb0({}):", arguments.join(", "));
        }
        write(self);
        self.indent -= 1;
        std::mem::replace(&mut self.text, outer)
    }

    pub fn terminator(&mut self, operation: &str, results: &[Ssa]) {
        let names: Vec<&str> = results.iter().map(|value| value.name.as_str()).collect();
        let types: Vec<String> = results.iter().map(|value| value.shape.mlir()).collect();
        let indent = " ".repeat(self.indent * 2);
        let (names, types) = (names.join(", "), types.join(", "));
        let _ = writeln!(self.text, "{indent}\"{operation}\"({names}) : ({types}) -> ()");
    }

    /// A scalar constant for an operation's own use.
    pub fn scalar(&mut self, call: &Call, literal: &Literal) -> Ssa {
        let result = self.temporary(literal.shape.clone());
        let attributes = format!("value = {}", dense(literal));
        self.full(call, std::slice::from_ref(&result), "stablehlo.constant", &[], &[], &attributes);
        result
    }

    /// Calls a private function that `build` traces out of simpler operations. `key` says what it
    /// computes besides the operand shapes: equal keys share one function.
    pub fn composite(
        &mut self,
        call: &Call,
        name: &str,
        key: &str,
        build: impl for<'g> FnOnce(&[Tensor<'g>]) -> Vec<Tensor<'g>>,
    ) {
        let types: Vec<String> = call.operands.iter().map(|o| o.shape.to_string()).collect();
        let key = format!("{name} {key} {}", types.join(" "));
        let callee = match self.module.names.get(&key) {
            Some(callee) => callee.clone(),
            None => {
                let callee = format!("{}_{}", identifier(name), self.module.names.len());
                self.module.names.insert(key, callee.clone());
                let shapes: Vec<Shape> = call.operands.iter().map(|o| o.shape.clone()).collect();
                if let Some(text) = self.private_function(&callee, &shapes, &call.results, build) {
                    self.module.texts.push(text);
                }
                callee
            }
        };
        self.statement(call, "func.call", &format!("callee = @{callee}"));
    }

    fn private_function(
        &mut self,
        callee: &str,
        operands: &[Shape],
        results: &[Ssa],
        build: impl for<'g> FnOnce(&[Tensor<'g>]) -> Vec<Tensor<'g>>,
    ) -> Option<String> {
        // A composite's shape rule has traced the same definition on the same operands, so it
        // cannot fail here.
        let function = composite_function(operands, build).ok()?;
        let parameters = &function.regions[MAIN.0 as usize].parameters;
        let arguments: Vec<String> = parameters
            .iter()
            .zip(operands)
            .map(|(value, shape)| format!("%{}: {}", value.0, shape.mlir()))
            .collect();
        let types: Vec<String> = results.iter().map(|result| result.shape.mlir()).collect();
        let body = Emitter::new(&function, self.options, self.module, self.locations).body(2);
        Some(format!(
            "  func.func private @{callee}({}) -> ({}) {{\n{body}  }}\n",
            arguments.join(", "),
            types.join(", ")
        ))
    }
}

/// Traces a composite's definition on operands of the given shapes.
pub(crate) fn composite_function(
    operands: &[Shape],
    build: impl for<'g> FnOnce(&[Tensor<'g>]) -> Vec<Tensor<'g>>,
) -> Result<Function, crate::error::TraceError> {
    let graph = Graph::new();
    let inputs: Vec<Tensor<'_>> = operands
        .iter()
        .enumerate()
        .map(|(index, shape)| graph.input(&index.to_string(), Role::Activation, shape.clone()))
        .collect();
    let results = build(&inputs);
    let named = results.iter().enumerate().map(|(i, &t)| output(&i.to_string(), t)).collect();
    graph.finish(named)
}

/// The result shapes of a composite, which its shape rule returns: an operand that its definition
/// cannot take is an error of the trace, not of the text.
pub(crate) fn composite_shapes(
    operands: &[Shape],
    build: impl for<'g> FnOnce(&[Tensor<'g>]) -> Vec<Tensor<'g>>,
) -> Result<Vec<Shape>, ShapeError> {
    match composite_function(operands, build) {
        Ok(function) => Ok(function.result_shapes()),
        Err(error) => Err(ShapeError::new(error.to_string())),
    }
}

/// The reference result of a composite: its definition, evaluated.
pub(crate) fn evaluate_composite(
    kernels: &Kernels,
    operands: &[Literal],
    build: impl for<'g> FnOnce(&[Tensor<'g>]) -> Vec<Tensor<'g>>,
) -> Vec<Literal> {
    let shapes: Vec<Shape> = operands.iter().map(|literal| literal.shape.clone()).collect();
    match composite_function(&shapes, build) {
        Ok(function) => Evaluator::new(&function, kernels).main(operands),
        Err(_) => Vec::new(),
    }
}

/// `dense<…> : type`, exact for every element type.
pub fn dense(literal: &Literal) -> String {
    let dtype = literal.shape.dtype;
    let element = |value: f64| -> String {
        if dtype == crate::DType::Bool {
            return (value != 0.0).to_string();
        }
        match dtype {
            // The greatest values are not exact in f64; these conversions stop at them.
            crate::DType::S64 => return (value as i64).to_string(),
            crate::DType::U64 => return (value as u64).to_string(),
            _ if !dtype.is_float() => return format!("{value:.0}"),
            _ => {}
        }
        if value.is_finite() {
            // Shortest text that reads back as the same number; MLIR wants a decimal point.
            let text = match dtype {
                crate::DType::F64 => format!("{value:e}"),
                _ => format!("{:e}", value as f32),
            };
            return match text.split_once('e') {
                Some((digits, exponent)) if !digits.contains('.') => {
                    format!("{digits}.0e{exponent}")
                }
                _ => text,
            };
        }
        let scalar = Literal::scalar(dtype, value);
        let bytes: Vec<String> =
            scalar.to_bytes().iter().rev().map(|byte| format!("{byte:02X}")).collect();
        format!("0x{}", bytes.concat())
    };
    let first = literal.values.first().copied().unwrap_or(0.0);
    let same = literal.values.iter().all(|value| value.to_bits() == first.to_bits());
    let body = match same {
        true => element(first),
        false => nested(&literal.shape.sizes(), &literal.values, &element),
    };
    format!("dense<{body}> : {}", literal.shape.mlir())
}

fn nested(sizes: &[usize], values: &[f64], element: &dyn Fn(f64) -> String) -> String {
    let [outer, inner @ ..] = sizes else {
        return values.first().map_or_else(String::new, |&value| element(value));
    };
    let parts: Vec<String> = values
        .chunks(values.len() / (*outer).max(1))
        .map(|chunk| nested(inner, chunk, element))
        .collect();
    format!("[{}]", parts.join(", "))
}

/// `array<i64: 1, 2>`, MLIR's dense array attribute.
pub fn array(numbers: &[usize]) -> String {
    if numbers.is_empty() {
        return "array<i64>".to_string();
    }
    format!("array<i64: {}>", list(numbers))
}

/// `1, 2`, for attributes with brackets of their own.
pub fn list(numbers: &[usize]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn identifier(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
}

fn escape(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() && *c != '"' && *c != '\\').collect()
}
