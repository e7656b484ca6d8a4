//! Points that are looked into: each shows what it stands for when it is pointed at, without a script.
use super::chart::{COLOURS, legend_of, name_of, spread};
use super::page::{Content, Figure, escape};
use std::fmt::Write;

/// Points, each with what it stands for.
#[derive(Debug, Clone, Default)]
pub struct Map<'a> {
    /// Ways to lay the points out, each with its name and the place of each point; the first is shown first.
    pub planes: &'a [(&'a str, Vec<[f64; 2]>)],
    /// The label of each point, from 0.
    pub labels: &'a [i64],
    /// Names of the labels.
    pub names: &'a [String],
    /// What each point stands for; those past the end show their label alone.
    pub shown: &'a [Figure],
}

/// The map as HTML. `number` tells the maps of a page apart.
pub(super) fn html(map: &Map, number: usize) -> String {
    let mut html = String::from("<div class=\"map\">");
    for (i, (name, _)) in map.planes.iter().enumerate() {
        let checked = if i == 0 { " checked" } else { "" };
        let id = format!("m{number}v{i}");
        let _ = write!(
            html,
            "<input type=\"radio\" name=\"m{number}\" id=\"{id}\"{checked}><label for=\"{id}\">{}</label>",
            escape(name)
        );
    }
    let _ = write!(html, "<div class=\"field\" role=\"group\" aria-label=\"{} points\">", map.labels.len());
    let planes: Vec<Vec<Option<[f64; 2]>>> = map.planes.iter().map(|(_, points)| spread(points)).collect();
    for (at, label) in map.labels.iter().enumerate() {
        let place = |(i, plane): (usize, &Vec<Option<[f64; 2]>>)| {
            let [x, y] = plane.get(at).copied().flatten()?;
            Some(format!("--x{i}:{:.1}%;--y{i}:{:.1}%;", 100. * x, 100. * (1. - y)))
        };
        let Some(places) = planes.iter().enumerate().map(place).collect::<Option<String>>() else { continue };
        let colour = label.rem_euclid(COLOURS as i64);
        let name = name_of(*label, map.names);
        let (picture, text) = match map.shown.get(at).map(|figure| (&figure.content, &figure.caption)) {
            Some((Content::Embedded(uri), caption)) => {
                (format!("<img loading=\"lazy\" alt=\"\" src=\"{}\">", escape(uri)), caption.clone())
            }
            Some((Content::Written(text), _)) => (String::new(), text.clone()),
            Some((Content::Played { .. } | Content::Shaded(_), caption)) => (String::new(), caption.clone()),
            None => (String::new(), String::new()),
        };
        let _ = write!(
            html,
            "<i class=\"b{colour}\" style=\"{places}\" tabindex=\"0\"><b>{picture}<em>{}</em> {}</b></i>",
            escape(&name),
            escape(&text)
        );
    }
    html += "</div></div>";
    html + &legend_of(map.labels, map.names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_has_a_place_on_every_plane_its_colour_and_what_it_stands_for() {
        let planes = [
            ("near", vec![[0., 0.], [1., 2.], [f64::NAN, 0.]]),
            ("wide", vec![[5., 1.], [5., 0.], [0., 0.]]),
        ];
        let shown = [Figure::text("a <b> c", ""), Figure::embedded("application/pdf", b"x", "second")];
        let names = ["<shirt>".to_string()];
        let map = Map { planes: &planes, labels: &[0, 11, 1], names: &names, shown: &shown };
        let html = html(&map, 3);
        assert_eq!(html.matches("<i class=\"b").count(), 2 + 3, "a point without a place is left out");
        assert_eq!(html.matches(" checked").count(), 1);
        assert!(html.contains("a &lt;b&gt; c") && html.contains("<em>&lt;shirt&gt;</em>"));
        assert!(html.contains("src=\"data:application/pdf;base64,eA==\"") && html.contains("</i>11</li>"));
        assert!(html.contains("for=\"m3v1\""));
        let places: Vec<&str> =
            html.split("style=\"").skip(1).map(|part| part.split('"').next().unwrap()).collect();
        // The first lies left and low on the first plane, the second right and high.
        assert_eq!(places[0], "--x0:3.7%;--y0:96.3%;--x1:96.3%;--y1:3.7%;");
        assert_eq!(places[1], "--x0:96.3%;--y0:3.7%;--x1:96.3%;--y1:96.3%;");
    }
}
