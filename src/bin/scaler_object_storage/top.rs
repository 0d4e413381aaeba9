//! `top`: the numbers of a running store, live in the terminal.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use clap::ArgMatches;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Gauge, Paragraph, Sparkline, Wrap};
use scaler_object_storage::{HealthState, Stats};

use crate::Failure;
use crate::output::{bytes, known};
use crate::status::{Running, in_seconds, to_redis, waiting};

/// How many moments a plot shows at most: more than a terminal has columns.
const MOMENTS_MAX: usize = 600;

/// How often keys are looked at.
const KEY_LOOK: Duration = Duration::from_millis(100);

/// What is shown: the last numbers, and what they were before.
#[derive(Default)]
struct Screen {
    latest: Option<(Instant, Stats)>,
    /// Since the snapshot before: gets, puts, deletes a second.
    rates: [f64; 3],
    gets: VecDeque<u64>,
    puts: VecDeque<u64>,
    dirty: VecDeque<u64>,
    trouble: Option<String>,
}

impl Screen {
    fn take(&mut self, taken: Instant, asked: Result<Stats, String>) {
        let stats = match asked {
            Ok(stats) => stats,
            Err(trouble) => {
                self.trouble = Some(trouble);
                return;
            }
        };
        self.trouble = None;
        if let Some((before, past)) = &self.latest {
            let seconds = taken.duration_since(*before).as_secs_f64().max(1e-3);
            let counted = |stats: &Stats| {
                let done = &stats.operations;
                [done.hits + done.misses, done.puts + done.duplicates, done.deletes]
            };
            // A store that was opened anew counts from 0 again.
            let pairs = counted(&stats).into_iter().zip(counted(past));
            for (rate, (now, then)) in self.rates.iter_mut().zip(pairs) {
                *rate = now.saturating_sub(then) as f64 / seconds;
            }
            let [gets, puts, _] = self.rates;
            push(&mut self.gets, gets.round() as u64);
            push(&mut self.puts, puts.round() as u64);
        }
        push(&mut self.dirty, stats.replication.as_ref().map_or(0, |replication| replication.dirty_records));
        self.latest = Some((taken, stats));
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let Some((_, stats)) = &self.latest else {
            let text = self.trouble.clone().unwrap_or_else(|| "asking ...".to_owned());
            frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), frame.area());
            return;
        };
        let replication = u16::from(stats.replication.is_some());
        let [head, health, room, numbers, gets, puts, dirty, foot] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(health_lines(stats, self.trouble.as_deref()).len() as u16),
            Constraint::Length(1),
            Constraint::Length(4 + replication),
            Constraint::Fill(1),
            Constraint::Fill(1),
            Constraint::Fill(replication),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let title = format!("{} in {}", stats.backend, stats.place);
        frame.render_widget(Line::from(Span::styled(title, bold)), head);
        frame.render_widget(
            Paragraph::new(health_lines(stats, self.trouble.as_deref())).wrap(Wrap { trim: true }),
            health,
        );
        frame.render_widget(gauge(stats), room);
        frame.render_widget(Paragraph::new(self.numbers(stats)), numbers);
        let [got, put, deleted] = self.rates;
        plot(frame, gets, format!(" gets: {got:.0}/s "), &self.gets, Color::Cyan);
        plot(frame, puts, format!(" puts: {put:.0}/s, deletes: {deleted:.0}/s "), &self.puts, Color::Green);
        if stats.replication.is_some() {
            plot(frame, dirty, " writes on their way to Redis ".to_owned(), &self.dirty, Color::Yellow);
        }
        frame.render_widget(Line::from("q: quit"), foot);
    }

    fn numbers(&self, stats: &Stats) -> Vec<Line<'static>> {
        let done = &stats.operations;
        let asked = done.hits + done.misses;
        let hits = if asked > 0 { format!("{:.1} %", done.hits as f64 * 100.0 / asked as f64) } else { "-".to_owned() };
        let attached = stats.keeper.as_ref().map_or(0, |keeper| keeper.attached);
        let mut lines = vec![
            row("objects", &format!("{}, {}", stats.objects, bytes(stats.payload_bytes))),
            row("waiting", &waiting(stats)),
            row("hits", &format!("{hits} of {asked} gets so far")),
        ];
        if stats.replication.is_some() {
            lines.push(row("to Redis", &to_redis(stats)));
        }
        let (process, open) = (&stats.process, in_seconds(stats.open_seconds));
        let memory = known(process.resident_bytes.map(bytes));
        lines
            .push(row("process", &format!("{}, open for {open}, {memory} of memory, {attached} attached", process.id)));
        lines
    }
}

fn push(moments: &mut VecDeque<u64>, value: u64) {
    if moments.len() >= MOMENTS_MAX {
        moments.pop_front();
    }
    moments.push_back(value);
}

fn row(name: &str, value: &str) -> Line<'static> {
    Line::from(format!("{name:<9} {value}"))
}

fn health_lines(stats: &Stats, trouble: Option<&str>) -> Vec<Line<'static>> {
    let red = Style::new().fg(Color::Red);
    if let Some(trouble) = trouble {
        return vec![Line::from(Span::styled(format!("no answer: {trouble}"), red))];
    }
    if stats.health.state == HealthState::Ok {
        return vec![Line::from(Span::styled("ok", Style::new().fg(Color::Green)))];
    }
    let reasons = stats.health.reasons.iter();
    let mut lines: Vec<_> = reasons
        .map(|reason| {
            let text = format!("degraded for {}: {}", in_seconds(reason.since_seconds), reason.text);
            Line::from(Span::styled(text, red))
        })
        .collect();
    if lines.is_empty() {
        lines.push(Line::from(Span::styled("degraded", red)));
    }
    lines
}

fn gauge(stats: &Stats) -> Gauge<'static> {
    let (taken, capacity) = (stats.physical_bytes, stats.capacity_bytes);
    let ratio = if capacity > 0 { (taken as f64 / capacity as f64).clamp(0.0, 1.0) } else { 0.0 };
    let color = if ratio > 0.9 { Color::Red } else { Color::Blue };
    let label = if capacity > 0 { format!("{} of {}", bytes(taken), bytes(capacity)) } else { bytes(taken) };
    Gauge::default().ratio(ratio).label(label).gauge_style(Style::new().fg(color))
}

/// The last moments, the newest at the right.
fn plot(frame: &mut Frame<'_>, area: Rect, title: String, moments: &VecDeque<u64>, color: Color) {
    let width = usize::from(area.width.saturating_sub(2));
    let shown: Vec<u64> = moments.iter().skip(moments.len().saturating_sub(width)).copied().collect();
    let sparkline = Sparkline::default().block(Block::bordered().title(title)).data(&shown);
    frame.render_widget(sparkline.style(Style::new().fg(color)), area);
}

pub fn top(matches: &mut ArgMatches) -> Result<ExitCode, Failure> {
    let every = matches.remove_one::<u64>("every").unwrap_or(1);
    if !std::io::stdout().is_terminal() {
        return Err("top is for a terminal; status prints the same numbers once".into());
    }
    let running = Running::of(matches)?;
    running.stats()?;
    // In a thread of its own: a keeper that does not answer must not keep the keys from being heard.
    let (sender, taken) = sync_channel(1);
    std::thread::spawn(move || {
        loop {
            let asked = running.stats().map_err(|failure| failure.to_string());
            if sender.send((Instant::now(), asked)).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_secs(every));
        }
    });
    let mut terminal = ratatui::try_init()?;
    let ended = show(&mut terminal, &taken);
    ratatui::try_restore()?;
    ended.map(|()| ExitCode::SUCCESS)
}

type Taken = (Instant, Result<Stats, String>);

fn show(terminal: &mut ratatui::DefaultTerminal, taken: &Receiver<Taken>) -> Result<(), Failure> {
    let mut screen = Screen::default();
    loop {
        terminal.draw(|frame| screen.draw(frame))?;
        while event::poll(Duration::ZERO)? {
            if is_end(&event::read()?) {
                return Ok(());
            }
        }
        match taken.recv_timeout(KEY_LOOK) {
            Ok((at, asked)) => screen.take(at, asked),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err("the thread that asks has ended".into()),
        }
    }
}

fn is_end(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    let is_interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press && (is_interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn stats(text: &str) -> Stats {
        serde_json::from_str(text).unwrap()
    }

    /// What stands on a terminal of this size.
    fn drawn(screen: &Screen, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    fn running() -> Screen {
        let mut screen = Screen::default();
        let begun = Instant::now();
        for second in 0..30_u64 {
            let text = format!(
                r#"{{"backend":"tiered","place":"/var/lib/scaler","objects":1234,"payload_bytes":5242880,"capacity_bytes":1048576000,
                    "physical_bytes":524288000,"operations":{{"hits":{},"misses":{},"puts":{},"deletes":{}}},
                    "replication":{{"is_reachable":true,"dirty_records":{second},"dirty_bytes":2048,"oldest_dirty_seconds":3.5}},
                    "waits":{{"requests":3,"ids":2,"oldest_seconds":7.25}}}}"#,
                90 * second * second,
                10 * second * second,
                20 * second,
                5 * second
            );
            screen.take(begun + Duration::from_secs(second), Ok(stats(&text)));
        }
        screen
    }

    #[test]
    fn a_running_store_is_shown() {
        let screen = running();
        assert_eq!(screen.rates, [5700.0, 20.0, 5.0]);
        let shown = drawn(&screen, 100, 30);
        for expected in [
            "tiered in /var/lib/scaler",
            "ok",
            "500.0 MiB of 1000.0 MiB",
            "objects   1234, 5.0 MiB",
            "waiting   3 requests for 2 objects, the oldest for 7.2s",
            "hits      90.0 % of 84100 gets so far",
            "to Redis  29 writes (2.0 KiB) to go, the oldest from 3.5s ago",
            "gets: 5700/s",
            "puts: 20/s, deletes: 5/s",
            "writes on their way to Redis",
            "q: quit",
        ] {
            assert!(shown.contains(expected), "{expected:?} is not on\n{shown}");
        }
        assert!(shown.contains('\u{2588}'), "no plot on\n{shown}");
    }

    #[test]
    fn what_is_not_well_is_shown_with_its_reason() {
        let mut screen = running();
        let degraded = r#"{"backend":"local","place":"/x","health":{"state":"degraded",
            "reasons":[{"kind":"writes_refused","text":"the disk has failed","since_seconds":65}]}}"#;
        screen.take(Instant::now() + Duration::from_secs(60), Ok(stats(degraded)));
        let shown = drawn(&screen, 80, 24);
        assert!(shown.contains("degraded for 1m 5s: the disk has failed"), "{shown}");
        assert_eq!(screen.rates, [0.0; 3], "counted from 0 again");
        assert!(!shown.contains("on their way to Redis"), "{shown}");
        screen.take(Instant::now(), Err("the keeper has gone".to_owned()));
        let shown = drawn(&screen, 80, 24);
        assert!(shown.contains("no answer: the keeper has gone") && shown.contains("local in /x"), "{shown}");
    }

    #[test]
    fn any_terminal_is_large_enough() {
        for (width, height) in [(1, 1), (10, 3), (40, 8), (300, 100)] {
            drawn(&running(), width, height);
            drawn(&Screen::default(), width, height);
        }
    }
}
