//! The flags of `fungible bench http`.

use clap::Args;

#[derive(Args, Debug)]
pub struct BenchHttpArguments {
    /// Without TLS: http://HOST:PORT/PATH
    pub url: String,
    /// What every request carries; without one they are GET
    #[arg(long, default_value = "", hide_default_value = true)]
    pub body: String,
    /// A header of every request, as in 'authorization: Bearer KEY'
    #[arg(long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// Requests per second, at random times, answered or not; times count from when one was due
    #[arg(long, value_name = "PER_SECOND", required_unless_present = "clients")]
    pub rate: Option<f64>,
    /// Instead: so many clients that each wait for an answer before they ask again
    #[arg(long, conflicts_with = "rate")]
    pub clients: Option<usize>,
    /// Seconds that count
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub duration: f64,
    /// Seconds before them
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    pub warm_up: f64,
    /// How long answers are waited for after the last request was due
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
    pub patience: f64,
    /// Requests under way at once; at a rate, further ones wait, and their time runs
    #[arg(long, default_value_t = 1024, value_name = "COUNT")]
    pub connections: usize,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}
