//! The programs of serving can be traced for scanned and unrolled layers, in every shape.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use llm::models::{Layers, LoraSlots, PageShape};
use llm::programs::{self, EmbedShape, ProgramOptions, StepShape};
use runtime::PluginKind;

#[test]
fn every_shape_of_step_is_traced() {
    let config = llm::shapes::find("llama3-8b").unwrap().unwrap();
    let pages = PageShape { pages: 8, page: 4 };
    for layers in [Layers::Scanned, Layers::Unrolled] {
        let options = ProgramOptions { layers, ..ProgramOptions::for_plugin(PluginKind::Tpu) };
        for (batch, width, draws_each) in
            [(1, 16, false), (1, 1, false), (4, 1, false), (4, 3, true)]
        {
            for adapters in [None, Some(LoraSlots { slots: 3, rank: 8 })] {
                let sizes =
                    StepShape { batch, width, draws_each, blocks: 2, slots: 5, pages, adapters };
                let traced = programs::step(&config, &options, sizes)
                    .unwrap_or_else(|error| panic!("{sizes:?}: {error}"));
                assert_eq!(traced.program.inputs[0].name, "rows");
                let halves = traced.parameters.iter().filter(|spec| spec.slots_of().is_some());
                let stacks = if layers == Layers::Scanned { 1 } else { config.num_hidden_layers };
                let wanted = if adapters.is_some() { 2 * 7 * stacks } else { 0 };
                assert_eq!(halves.count(), wanted);
            }
        }
        programs::embed(&config, &options, EmbedShape { width: 16, blocks: 2, pages }).unwrap();
    }
}
