//! x
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing)]
use ssl_datasets::*;
struct P(std::time::Instant);
impl Progress for P {
    fn begin(&self, a: Action, i: &str, t: Option<u64>) {
        println!("{:.2} begin {a} {i} {t:?}", self.0.elapsed().as_secs_f64());
    }
    fn advance(&self, _: Action, _: &str, _: u64) {}
    fn finish(&self, a: Action, i: &str) {
        println!("{:.2} finish {a} {i}", self.0.elapsed().as_secs_f64());
    }
    fn note(&self, m: &str) {
        println!("{:.2} note {m}", self.0.elapsed().as_secs_f64());
    }
}
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let store = Store::new(&a[1]);
    let p = P(std::time::Instant::now());
    let o = FetchOptions { mirror: a.get(3).map(Into::into), ..Default::default() };
    let text;
    let c = if a[2].ends_with(".json") {
        text = std::fs::read_to_string(&a[2]).unwrap();
        Catalog::from_json([("x", text.as_str())]).unwrap()
    } else {
        Catalog::builtin().unwrap()
    };
    let d = if a[2].ends_with(".json") { c.iter().next().unwrap() } else { c.get(&a[2]).unwrap() };
    match store.fetch(d, &o, &p) {
        Ok(x) => println!("ok {x:?}"),
        Err(e) => {
            println!("error: {e}");
            std::process::exit(1)
        }
    }
    let r = store.verify(d, &p).unwrap();
    println!("{} files {} bytes trusted {} {:?} {:?}", r.files, r.bytes, r.trusted, r.sources, r.problems);
}
