//! The programs of serving can be traced for scanned and unrolled layers, in every shape.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use llm::models::{Layers, PageShape};
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
            let shape = StepShape { batch, width, draws_each, blocks: 2, slots: 5, pages };
            let program = programs::step(&config, &options, shape)
                .unwrap_or_else(|error| panic!("{shape:?}: {error}"))
                .program;
            assert_eq!(program.inputs[0].name, "rows");
        }
        programs::embed(&config, &options, EmbedShape { width: 16, blocks: 2, pages }).unwrap();
    }
}
