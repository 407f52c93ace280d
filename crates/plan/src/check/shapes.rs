//! What is checked: jobs whose shapes nothing in the planner was tuned with.

/// A job with a name.
#[derive(Debug)]
pub struct Shape {
    pub name: &'static str,
    /// In a few words.
    pub says: &'static str,
    pub(super) job: Job,
    /// Whether it is checked if nobody names one.
    default: bool,
}

#[derive(Debug)]
pub(super) enum Job {
    /// The model and training sections of a config.
    Training(&'static str),
    Serving(Serving),
}

/// A model with weights that are made up, and requests to it.
#[derive(Debug)]
pub(super) struct Serving {
    /// The model, as a `config.json`.
    pub model: &'static str,
    /// Tokens of a prompt, which are one chunk.
    pub input: usize,
    /// Tokens of an answer to a short one.
    pub output: usize,
    /// Requests at once; each number is checked.
    pub rows: &'static [usize],
}

const SHAPES: [Shape; 6] = [
    Shape {
        name: "smollm2",
        says: "training, the sizes of SmolLM2-135M, 2 x 256 tokens",
        job: Job::Training(include_str!("shapes/smollm2.toml")),
        default: true,
    },
    Shape {
        name: "wide",
        says: "training, 9 layers 896 wide, 2 x 128 tokens",
        job: Job::Training(include_str!("shapes/wide.toml")),
        default: true,
    },
    Shape {
        name: "deep",
        says: "training, 22 layers 448 wide, 4 x 128 tokens",
        job: Job::Training(include_str!("shapes/deep.toml")),
        default: true,
    },
    Shape {
        name: "serving",
        says: "serving, 20 layers 640 wide in bf16: a prompt of 512 tokens, one and 8 answers at once",
        job: Job::Serving(Serving {
            model: include_str!("shapes/serving.json"),
            input: 512,
            output: 96,
            rows: &[1, 8],
        }),
        default: true,
    },
    Shape {
        name: "tiny-training",
        says: "training, so small that nothing is predicted: measured whole, twice",
        job: Job::Training(include_str!("shapes/tiny.toml")),
        default: false,
    },
    Shape {
        name: "tiny-serving",
        says: "serving, likewise",
        job: Job::Serving(Serving {
            model: include_str!("shapes/tiny.json"),
            input: 32,
            output: 8,
            rows: &[1, 2],
        }),
        default: false,
    },
];

/// The names of all shapes.
pub fn names() -> impl Iterator<Item = &'static str> {
    SHAPES.iter().map(|shape| shape.name)
}

pub fn find(name: &str) -> Option<&'static Shape> {
    SHAPES.iter().find(|shape| shape.name == name)
}

/// What is checked if nobody names anything.
pub fn defaults() -> impl Iterator<Item = &'static Shape> {
    SHAPES.iter().filter(|shape| shape.default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_makes_sense() {
        for name in names() {
            match &find(name).unwrap().job {
                Job::Training(text) => {
                    let text = format!("{text}\n[[data.sources]]\npath = \"x.txt\"\n");
                    let config = train::config::Config::parse(&text, &[], name).unwrap();
                    assert!(config.model.vocabulary_size.is_some(), "{name}");
                }
                Job::Serving(serving) => {
                    let model = llm::ModelConfig::from_json(serving.model).unwrap();
                    let longest = serving.input + serving.output;
                    assert!(longest <= model.max_position_embeddings, "{name}");
                }
            }
        }
        assert!(find("nothing").is_none());
    }

    #[test]
    fn three_steps_of_training_are_checked_and_three_of_serving() {
        let (mut training, mut serving) = (0, 0);
        for shape in defaults() {
            match &shape.job {
                Job::Training(_) => training += 1,
                Job::Serving(of) => serving += 1 + of.rows.len(),
            }
        }
        assert_eq!((training, serving), (3, 3));
    }
}
