//! Cost against time of all targets, with the front that nothing beats. SVG in the colours of the page.

use std::fmt::Write;

use super::axis::{Axis, plain};
use super::html::escaped;
use super::labels::{Area, HEIGHT as LINE, placed};
use crate::goal::Goal;
use crate::row::{JobFigures, Planned};
use crate::table::Entry;
use crate::words::{dollars, duration, milliseconds};

/// How large a picture is, in CSS pixels.
#[derive(Clone, Copy)]
struct Size {
    class: &'static str,
    width: f64,
    height: f64,
}

/// A page shows one of them, as there is room: letters of a picture that shrinks could not be read.
const SIZES: [Size; 2] = [
    Size { class: "wide", width: 900.0, height: 420.0 },
    Size { class: "narrow", width: 360.0, height: 380.0 },
];

const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 46.0;
const RADIUS: f64 = 5.5;

/// A target with its time, in a unit, and its cost.
struct Point {
    name: String,
    time: f64,
    low: f64,
    /// None where it could not keep up.
    high: Option<f64>,
    dollars: f64,
    on_front: bool,
    keeps_promises: bool,
    says: String,
}

/// What a second is called and counted in.
struct Unit {
    name: &'static str,
    seconds: f64,
}

impl Unit {
    fn of(seconds: f64) -> Unit {
        let (name, seconds) = match seconds {
            seconds if seconds < 1.0 => ("milliseconds", 1e-3),
            seconds if seconds < 120.0 => ("seconds", 1.0),
            seconds if seconds < 7200.0 => ("minutes", 60.0),
            seconds if seconds < 172_800.0 => ("hours", 3600.0),
            _ => ("days", 86_400.0),
        };
        Unit { name, seconds }
    }
}

/// The picture, for wide and narrow pages, with what is not in it below; nothing if nothing fits.
pub(super) fn figure(ranking: &[Entry<'_>]) -> String {
    let Some(first) = ranking.first() else { return String::new() };
    let place = |entry: &Entry<'_>| {
        let cost = entry.plan.value(Goal::Cost)?;
        let time = entry.plan.value(Goal::Time)?;
        let shown = |value: f64| value.is_finite() && value > 0.0;
        (shown(cost) && shown(time)).then_some((time, cost))
    };
    let known = ranking.iter().filter_map(place);
    let unit = Unit::of(known.map(|(time, _)| time).fold(0.0, f64::max));
    let points: Vec<Point> = ranking
        .iter()
        .filter_map(|entry| {
            let (time, dollars) = place(entry)?;
            let (low, high) = range(entry.plan);
            Some(Point {
                name: entry.name(),
                time: time / unit.seconds,
                low: low / unit.seconds,
                high: high.map(|high| high / unit.seconds),
                dollars,
                on_front: entry.on_front,
                keeps_promises: entry.plan.keeps_promises(),
                says: says(entry, time, (low, high)),
            })
        })
        .collect();
    let (heading, time, cost) = match first.plan.job {
        JobFigures::Training(_) => ("Cost and time of the run", "time of the run", "tokens"),
        JobFigures::Serving(_) => {
            ("Cost and time of an answer", "time of a whole answer", "generated tokens")
        }
    };
    let mut page = format!("<figure>\n<figcaption><strong>{heading}</strong>");
    if !points.is_empty() {
        let whiskers = "<span class=\"key range\">range of the time</span>";
        let front = match points.iter().filter(|point| point.on_front).count() {
            0 | 1 => "<span class=\"key front\">nothing is cheaper and quicker</span>",
            _ => "<span class=\"key front line\">nothing is both cheaper and quicker</span>",
        };
        let _ = write!(page, " <span class=\"legend\">{front}{whiskers}</span>");
    }
    page.push_str("</figcaption>\n");
    let mut unnamed = 0;
    if !points.is_empty() {
        for size in SIZES {
            let words = (format!("{time}, {}", unit.name), format!("$ per million {cost}"));
            let drawing = Drawing::new(&points, size);
            unnamed = unnamed.max(drawing.svg(&mut page, heading, &words));
        }
    }
    for line in below(ranking, &place, unnamed) {
        let _ = writeln!(page, "<p class=\"below\">{}</p>", escaped(&line));
    }
    page.push_str("</figure>\n");
    page
}

/// What the picture does not show.
fn below(
    ranking: &[Entry<'_>],
    place: &dyn Fn(&Entry<'_>) -> Option<(f64, f64)>,
    unnamed: usize,
) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in ranking.iter().filter(|entry| place(entry).is_none()) {
        let why = match entry.plan.value(Goal::Cost) {
            None => "no price is known that was asked for",
            Some(_) => "it never comes to an end",
        };
        let time = entry
            .plan
            .value(Goal::Time)
            .map_or_else(String::new, |seconds| format!("; {}", time_of(entry.plan, seconds)));
        lines.push(format!("Not in the picture: {} ({why}{time})", entry.name()));
    }
    if unnamed > 0 {
        lines.push(format!("{unnamed} points have no name beside them for want of room."));
    }
    lines
}

/// Of the same time as a plan is ranked by; no high end where a server could not keep up.
fn range(plan: &Planned) -> (f64, Option<f64>) {
    match &plan.job {
        JobFigures::Training(figures) => {
            // What is beside the steps is as long at both ends, but for what spot capacity loses.
            let run = plan.money.run.as_ref();
            let beside = run.map_or(0.0, |run| run.startup_seconds);
            let steps =
                (plan.run_seconds(figures) - beside) / figures.step.seconds.max(f64::MIN_POSITIVE);
            let end = |step: f64| step * steps + beside;
            (end(figures.step.low_seconds), Some(end(figures.step.high_seconds)))
        }
        JobFigures::Serving(figures) => {
            let load = &figures.load;
            let tokens = (figures.answer_seconds() - load.ttft_seconds) / load.tpot_seconds;
            let whole = |load: &crate::serving::load::AtLoad| {
                load.ttft_seconds + load.tpot_seconds * tokens
            };
            let own = figures.answer_seconds();
            (figures.quickest.as_ref().map_or(own, whole), figures.slowest.as_ref().map(whole))
        }
    }
}

fn time_of(plan: &Planned, seconds: f64) -> String {
    match plan.job {
        JobFigures::Training(_) => duration(seconds),
        JobFigures::Serving(_) => milliseconds(seconds),
    }
}

fn says(entry: &Entry<'_>, time: f64, (low, high): (f64, Option<f64>)) -> String {
    let words = |seconds| time_of(entry.plan, seconds);
    let high = high.map_or_else(|| "saturated".to_string(), words);
    let price = entry
        .plan
        .money
        .offer
        .as_ref()
        .map_or_else(String::new, |offer| format!(", {} {}", offer.provider, offer.purchase));
    format!(
        "{}: {} ({} to {high}), ${} per million tokens{price}",
        entry.name(),
        words(time),
        words(low),
        dollars(entry.plan.value(Goal::Cost)),
    )
}

struct Drawing<'a> {
    points: &'a [Point],
    times: Axis,
    costs: Axis,
    size: Size,
}

impl<'a> Drawing<'a> {
    fn new(points: &'a [Point], size: Size) -> Drawing<'a> {
        let times = points.iter().flat_map(|point| {
            [Some(point.time), Some(point.low), point.high].into_iter().flatten()
        });
        let costs = points.iter().map(|point| point.dollars);
        Drawing { points, times: Axis::around(times), costs: Axis::around(costs), size }
    }

    fn x(&self, time: f64) -> f64 {
        LEFT + self.times.place(time) * (self.size.width - LEFT - RIGHT)
    }

    fn y(&self, dollars: f64) -> f64 {
        let bottom = self.size.height - BOTTOM;
        bottom - self.costs.place(dollars) * (bottom - TOP)
    }

    /// Draws all of it; answers how many points have no name.
    fn svg(&self, page: &mut String, heading: &str, (time, cost): &(String, String)) -> usize {
        let Size { class, width, height } = self.size;
        let says: Vec<&str> = self.points.iter().map(|point| point.says.as_str()).collect();
        let (title, says) = (format!("plane-{class}"), escaped(&says.join(". ")));
        let _ = writeln!(
            page,
            "<svg class=\"plane {class}\" viewBox=\"0 0 {width} {height}\" role=\"img\" \
             aria-labelledby=\"{title} {title}-says\">\n<title id=\"{title}\">{heading}</title>\n\
             <desc id=\"{title}-says\">{says}</desc>"
        );
        self.axes(page, time, cost);
        self.front(page);
        let unnamed = self.names(page);
        for point in self.points {
            self.point(page, point);
        }
        page.push_str("</svg>\n");
        unnamed
    }

    fn axes(&self, page: &mut String, time: &str, cost: &str) {
        let Size { width, height, .. } = self.size;
        let (bottom, end) = (height - BOTTOM, width - RIGHT);
        for tick in self.costs.ticks(5) {
            let y = self.y(tick);
            let _ = writeln!(page, "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{end}\"/>");
            let _ = writeln!(
                page,
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 8.0,
                y + 4.5,
                plain(tick)
            );
        }
        let _ = writeln!(page, "<path class=\"axis\" d=\"M{LEFT} {bottom}H{end}\"/>");
        // Closer ones would run into each other.
        let mut free_from = f64::NEG_INFINITY;
        for tick in self.times.ticks((width / 110.0) as usize) {
            let (x, label) = (self.x(tick), plain(tick));
            let half = label.len() as f64 * 4.2;
            let _ = writeln!(page, "<path class=\"axis\" d=\"M{x:.1} {bottom}v5\"/>");
            if x - half < free_from || x + half > width {
                continue;
            }
            free_from = x + half + 6.0;
            let _ = writeln!(
                page,
                "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
                bottom + 19.0
            );
        }
        let scale = |axis: &Axis| if axis.is_logarithmic() { " (logarithmic)" } else { "" };
        let (times, costs) = (scale(&self.times), scale(&self.costs));
        let _ = writeln!(page, "<text x=\"0\" y=\"14\">{cost}{costs}</text>");
        let _ = writeln!(
            page,
            "<text x=\"{end}\" y=\"{}\" text-anchor=\"end\">{time}{times}</text>",
            height - 6.0
        );
    }

    fn front(&self, page: &mut String) {
        let mut front: Vec<&Point> = self.points.iter().filter(|point| point.on_front).collect();
        front.sort_by(|a, b| a.time.total_cmp(&b.time));
        if front.len() < 2 {
            return;
        }
        let places: Vec<String> = front
            .iter()
            .map(|point| format!("{:.1} {:.1}", self.x(point.time), self.y(point.dollars)))
            .collect();
        let _ = writeln!(page, "<path class=\"front\" d=\"M{}\"/>", places.join("L"));
    }

    fn point(&self, page: &mut String, point: &Point) {
        let (x, y) = (self.x(point.time), self.y(point.dollars));
        let low = self.x(point.low);
        let (high, end) = match point.high {
            Some(high) => (self.x(high), "m0 -4v8"),
            // On and on.
            None => (self.size.width - RIGHT, "m-4 -4l4 4l-4 4"),
        };
        let mut class = if point.on_front { "dot best" } else { "dot" }.to_string();
        if !point.keeps_promises {
            class.push_str(" slow");
        }
        let _ = writeln!(
            page,
            "<g><title>{}</title>\
             <path class=\"range\" d=\"M{low:.1} {:.1}v8m0 -4H{high:.1}{end}\"/>\
             <circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{RADIUS}\"/></g>",
            escaped(&point.says),
            y - 4.0,
        );
    }

    /// Names of the points that have room for one, those on the front first; answers how many have not.
    fn names(&self, page: &mut String) -> usize {
        let mut order: Vec<&Point> = self.points.iter().collect();
        order.sort_by_key(|point| !point.on_front);
        let place = |point: &Point| (self.x(point.time), self.y(point.dollars));
        let names: Vec<(String, (f64, f64))> =
            order.iter().map(|point| (point.name.clone(), place(point))).collect();
        let around = |left: f64, right: f64, y: f64, by: f64| Area {
            left: left - by,
            right: right + by,
            top: y - by,
            bottom: y + by,
        };
        let taken: Vec<Area> = self
            .points
            .iter()
            .flat_map(|point| {
                let (x, y) = place(point);
                let high = point.high.map_or(self.size.width, |high| self.x(high));
                [around(x, x, y, RADIUS), around(self.x(point.low), high, y, 3.0)]
            })
            .collect();
        let plane = Area {
            left: LEFT + 2.0,
            top: TOP - LINE / 2.0,
            right: self.size.width,
            bottom: self.size.height - BOTTOM - 2.0,
        };
        let found = placed(&names, &taken, &plane);
        for ((name, (x, y)), label) in names.iter().zip(&found) {
            let Some(label) = label else { continue };
            let Area { left, top, right, bottom } = label.area;
            let middle = (left + right) / 2.0;
            if label.is_far {
                let edge = if *y < top {
                    top
                } else if *y > bottom {
                    bottom
                } else {
                    *y
                };
                let beside = x.clamp(left, right);
                let _ = writeln!(
                    page,
                    "<path class=\"leader\" d=\"M{x:.1} {y:.1}L{beside:.1} {edge:.1}\"/>"
                );
            }
            let _ = writeln!(
                page,
                "<text class=\"name\" x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom - 4.0,
                escaped(name)
            );
        }
        found.iter().filter(|label| label.is_none()).count()
    }
}
