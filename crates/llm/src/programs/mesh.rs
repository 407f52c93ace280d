//! Choosing a mesh for a model: the layout that a user would draw up by hand.

use graph::Mesh;

use crate::config::ModelConfig;

/// Splits `devices` into `tensor` as far as it divides the key/value heads and the hidden layer of
/// the MLP, and `data` for the rest.
pub fn choose_mesh(config: &ModelConfig, devices: usize) -> Mesh {
    let divides = |pieces: usize| {
        devices.is_multiple_of(pieces)
            && config.num_key_value_heads.is_multiple_of(pieces)
            && config.intermediate_size.is_multiple_of(pieces)
    };
    let tensor = (1..=devices).rev().find(|&pieces| divides(pieces)).unwrap_or(1);
    let axes = [("data", devices / tensor), ("tensor", tensor)];
    Mesh::new(&axes.into_iter().filter(|&(_, size)| size > 1).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::choose_mesh;
    use crate::shapes;

    #[test]
    fn heads_decide() {
        let config = shapes::find("llama3-8b").unwrap().unwrap();
        let mesh = |devices| choose_mesh(&config, devices).to_string();
        assert_eq!(mesh(1), "one device");
        assert_eq!(mesh(8), "tensor=8");
        assert_eq!(mesh(16), "data=2,tensor=8");
    }
}
