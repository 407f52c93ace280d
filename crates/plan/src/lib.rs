//! Which chip a job should run on, and what it will cost: compiles a training step or a server's programs
//! for every target that is asked for, and makes time, memory, money and energy of what the compilers
//! return. Prints nothing.

pub mod check;
pub mod compile;
pub mod each;
mod energy;
pub mod goal;
pub mod here;
pub mod price;
pub mod report;
pub mod row;
pub mod serving;
pub mod table;
mod time;
pub mod training;
pub mod words;
