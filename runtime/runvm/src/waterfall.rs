//! A start-up drawn as a waterfall.

use std::fmt::Write;

use runvm_sandbox::phases::Span;

/// The width of the bars, in characters.
const WIDTH: u64 = 48;

/// The median of each span's length over `samples`, laid end to end again. Steps within a phase
/// (`isolate: kernel`) begin where the phase does.
pub(crate) fn median(samples: &[Vec<Span>]) -> Vec<Span> {
    let Some(first) = samples.first() else {
        return Vec::new();
    };
    let mut spans: Vec<Span> = Vec::new();
    let (mut phase_at_ns, mut step_at_ns) = (0, 0);
    for (index, span) in first.iter().enumerate() {
        let lengths = samples
            .iter()
            .filter_map(|sample| sample.get(index))
            .map(|span| span.end_ns - span.begin_ns)
            .collect();
        let length_ns = middle(lengths);
        let at_ns = if is_step(span) {
            &mut step_at_ns
        } else {
            &mut phase_at_ns
        };
        spans.push(Span {
            name: span.name.clone(),
            begin_ns: *at_ns,
            end_ns: *at_ns + length_ns,
        });
        *at_ns += length_ns;
        if !is_step(span) {
            step_at_ns = phase_at_ns;
        }
    }
    spans
}

fn is_step(span: &Span) -> bool {
    span.name.contains(": ")
}

fn middle(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

/// Draws `spans`, a line each: name, milliseconds, and a bar where it lies in the whole.
pub(crate) fn draw(spans: &[Span]) -> String {
    let total_ns = spans
        .iter()
        .map(|span| span.end_ns)
        .max()
        .unwrap_or(0)
        .max(1);
    let mut text = String::new();
    for span in spans {
        let begin = span.begin_ns * WIDTH / total_ns;
        let end = (span.end_ns * WIDTH).div_ceil(total_ns).max(begin + 1);
        let bar: String = (0..WIDTH)
            .map(|column| {
                if (begin..end).contains(&column) {
                    '#'
                } else {
                    '.'
                }
            })
            .collect();
        let name = span.name.replace("isolate: ", "  ");
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  {name:12} {:>10} ms  {bar}",
            millis(span.end_ns - span.begin_ns)
        );
    }
    let _ = writeln!(text, "  {:12} {:>10} ms", "total", millis(total_ns));
    text
}

fn millis(ns: u64) -> String {
    format!("{}.{:03}", ns / 1_000_000, ns / 1000 % 1000)
}

#[cfg(test)]
mod tests {
    use runvm_sandbox::phases::Span;

    use super::{draw, median};

    fn span(name: &str, begin_ns: u64, end_ns: u64) -> Span {
        Span {
            name: name.into(),
            begin_ns,
            end_ns,
        }
    }

    #[test]
    fn medians_are_taken_phase_by_phase_and_laid_end_to_end() {
        let samples = [
            vec![
                span("read", 0, 10),
                span("isolate: vmm", 10, 14),
                span("isolate", 10, 20),
            ],
            vec![
                span("read", 0, 30),
                span("isolate: vmm", 30, 31),
                span("isolate", 30, 35),
            ],
            vec![
                span("read", 0, 20),
                span("isolate: vmm", 20, 22),
                span("isolate", 20, 99),
            ],
        ];
        assert_eq!(
            median(&samples),
            [
                span("read", 0, 20),
                span("isolate: vmm", 20, 22),
                span("isolate", 20, 30)
            ]
        );
    }

    #[test]
    fn a_bar_lies_where_its_span_does() {
        let drawn = draw(&[
            span("read", 0, 1_000_000),
            span("start", 1_000_000, 2_000_000),
        ]);
        let lines: Vec<&str> = drawn.lines().collect();
        assert!(
            lines[0].ends_with(&("#".repeat(24) + &".".repeat(24))),
            "{drawn}"
        );
        assert!(
            lines[1].ends_with(&(".".repeat(24) + &"#".repeat(24))),
            "{drawn}"
        );
        assert!(lines[2].contains("2.000 ms"), "{drawn}");
    }
}
