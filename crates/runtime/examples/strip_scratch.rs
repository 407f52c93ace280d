use std::io::Write;
fn main() {
    let out = std::env::args().nth(1).unwrap();
    for file in std::env::args().skip(2) {
        let code = std::fs::read(&file).unwrap();
        let s = runtime::profile::stripped(&code).unwrap();
        let name = std::path::Path::new(&file).file_name().unwrap().to_str().unwrap().to_string();
        std::fs::write(format!("{out}/{name}"), s).unwrap();
    }
}
