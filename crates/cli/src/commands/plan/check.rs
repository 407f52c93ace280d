//! temporary
use crate::arguments::plan::CheckArguments;
use crate::console;
use crate::failure::{Failure, Outcome};
use plan::here::{self, Measurer, Memory};
use runtime::{CacheFolder, Discovery, PluginKind};
pub fn run(arguments: &CheckArguments) -> Outcome {
    let cache = CacheFolder::from_environment()?;
    let discovery = Discovery::new(cache.clone());
    let location = discovery.find(PluginKind::Cpu)?;
    let measurer = Measurer {
        program: std::env::current_exe()?,
        arguments: vec!["measure".into()],
        cache,
        location,
    };
    for path in &arguments.shape {
        let memory = if arguments.json { Memory::Renewed } else { Memory::Trusted };
        let started = std::time::Instant::now();
        if path.ends_with("toml") {
            let config = train::config::Config::load(std::path::Path::new(path), &[])?;
            let sizes = config
                .model
                .from_scratch(config.model.vocabulary_size, config.data.sequence_length)?
                .ok_or_else(|| Failure::usage("x"))?;
            let speed = here::train_step(&measurer, &config, &sizes, memory, &|text| {
                console::remark(text)
            })?;
            console::line(format_args!("{:?}\n{} in {:?}", speed, speed.how, started.elapsed()));
        } else {
            let model = llm::ModelConfig::from_json(&std::fs::read_to_string(path)?)?;
            let shape = here::ServingShape {
                model: &model,
                panels: here::held(&model, llm::weights::Quantization::AsStored)?,
                kv_dtype: None,
                slots: 8,
                page: 32,
                context: 1024,
                batches: vec![1, 8],
                chunks: vec![512],
            };
            let speed =
                here::serve_steps(&measurer, &shape, memory, &|text| console::remark(text))?;
            console::line(format_args!("{:?}\n{} in {:?}", speed, speed.how, started.elapsed()));
            console::line(format_args!(
                "prefill {:?} decode1 {:?} decode8 {:?}",
                speed.prefill(512, 0),
                speed.decode(1, 528),
                speed.decode(8, 528)
            ));
        }
    }
    Ok(())
}
