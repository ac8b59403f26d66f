//! When a start-up got how far, by phases that have the same names in both isolations.

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// CLOCK_MONOTONIC now, in nanoseconds.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// What an isolation stamps while it builds a sandbox: CLOCK_MONOTONIC of the host, nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamps {
    /// Code runs behind the wall: the container's init, or the agent in the guest.
    pub isolated_ns: u64,
    /// All is set up.
    pub ready_ns: u64,
    /// Steps within `isolate`, in order: name and end.
    pub within_isolate: Vec<(String, u64)>,
}

/// A span of a start-up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Span {
    /// Its name; `isolate: kernel` is a step within `isolate`.
    pub name: String,
    /// Begin, nanoseconds from the start of the first.
    pub begin_ns: u64,
    /// End, nanoseconds from the start of the first.
    pub end_ns: u64,
}

/// The spans of one life of a sandbox, from reading its configuration to its removal.
#[derive(Debug, Clone)]
pub struct Waterfall {
    origin_ns: u64,
    last_ns: u64,
    spans: Vec<Span>,
}

impl Waterfall {
    /// Begins now.
    pub fn begin() -> Self {
        Self::begin_at(now_ns())
    }

    fn begin_at(origin_ns: u64) -> Self {
        Self {
            origin_ns,
            last_ns: origin_ns,
            spans: Vec::new(),
        }
    }

    /// Ends the phase `name` now; it began where the one before it ended.
    pub fn end(&mut self, name: &str) {
        self.end_at(name, now_ns());
    }

    /// Ends `isolate` and `set up` by what the isolation stamped.
    pub fn end_built(&mut self, stamps: &Stamps) {
        let isolate_began_ns = self.last_ns;
        for (step, end_ns) in &stamps.within_isolate {
            self.end_at(&format!("isolate: {step}"), *end_ns);
        }
        self.last_ns = isolate_began_ns;
        self.end_at("isolate", stamps.isolated_ns);
        self.end_at("set up", stamps.ready_ns.max(stamps.isolated_ns));
    }

    fn end_at(&mut self, name: &str, at_ns: u64) {
        let at_ns = at_ns.max(self.last_ns);
        self.spans.push(Span {
            name: name.to_owned(),
            begin_ns: self.last_ns - self.origin_ns,
            end_ns: at_ns - self.origin_ns,
        });
        self.last_ns = at_ns;
    }

    /// The spans so far.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }
}

#[cfg(test)]
mod tests {
    use super::{Stamps, Waterfall};

    #[test]
    fn spans_follow_one_another_and_steps_lie_within_isolate() {
        let mut waterfall = Waterfall::begin_at(100);
        waterfall.end_at("read", 110);
        waterfall.end_built(&Stamps {
            isolated_ns: 150,
            ready_ns: 170,
            within_isolate: vec![("vmm".into(), 120), ("kernel".into(), 145)],
        });
        let spans: Vec<_> = waterfall
            .spans()
            .iter()
            .map(|span| (span.name.as_str(), span.begin_ns, span.end_ns))
            .collect();
        assert_eq!(
            spans,
            [
                ("read", 0, 10),
                ("isolate: vmm", 10, 20),
                ("isolate: kernel", 20, 45),
                ("isolate", 10, 50),
                ("set up", 50, 70),
            ]
        );
    }
}
