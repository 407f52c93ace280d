use runtime::profile::{ProfileOptions, profile_with};
fn main() {
    let mut args = std::env::args().skip(1);
    let file = args.next().unwrap();
    let target: runtime::Target = args.next().unwrap().parse().unwrap();
    let turns = args.next().and_then(|t| t.parse().ok());
    let code = std::fs::read(&file).unwrap();
    let mut best = f64::INFINITY;
    let mut p = None;
    for _ in 0..5 {
        let t = std::time::Instant::now();
        p = Some(
            profile_with(&code, &target, &ProfileOptions { unstated_loop_turns: turns }).unwrap(),
        );
        best = best.min(t.elapsed().as_secs_f64());
    }
    let p = p.unwrap();
    println!(
        "{file}: {:.4} s  [{:.4}, {:.4}] hidden {:.4}; model took {:.1} ms, {} instrs, {} bytes",
        p.total_seconds,
        p.low_seconds,
        p.high_seconds,
        p.hidden_seconds,
        best * 1e3,
        p.instructions.len(),
        code.len()
    );
    for b in &p.bounds {
        println!("  bound {:?} {:.4} {:.3}", b.bound, b.seconds, b.share);
    }
    let att: f64 =
        p.by_path.iter().filter(|s| s.name.ends_with("self_attn")).map(|s| s.seconds).sum();
    println!("  ATT {att:.3} s {:.3}", att / p.total_seconds);
    let prod: (f64, f64) = p
        .instructions
        .iter()
        .filter(|i| i.flops > 0.0 && !i.path.ends_with("self_attn"))
        .fold((0.0, 0.0), |a, i| (a.0 + i.flops * i.times, a.1 + i.seconds));
    println!("  PROD outside attention {:.4e} flops {:.3} s", prod.0, prod.1);
    let all: f64 = p.instructions.iter().map(|i| i.flops * i.times).sum();
    println!("  ALL flops {all:.4e}");
    for b in &p.by_source {
        println!("  source {} {:.4} {:.3}", b.name, b.seconds, b.share);
    }
    for b in &p.unestimated {
        println!(
            "  unest {} n{} {:.3e} B {:.4} s {:.3} hidden {:.4}",
            b.kind, b.count, b.bytes, b.seconds, b.share, b.hidden_seconds
        );
    }
    for i in p.instructions.iter().take(14) {
        println!(
            "    {:.4} {:?} {:?} x{} {} {:.2e}B {:.2e}F {} {}",
            i.seconds, i.source, i.bound, i.times, i.name, i.bytes as f64, i.flops, i.path, i.line
        );
    }
    for u in p.unknown.iter().take(8) {
        println!("  {u}");
    }
}
