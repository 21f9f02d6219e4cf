//! What is told while images are moved and built: bars and a moving line where somebody watches, plain lines elsewhere.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use berth_build::{BuildProgress, Event, Step};
use berth_content::Digest;
use berth_registry::LayerProgress;
use indicatif::{ProgressBar, ProgressStyle};

use crate::screen;

/// One image on its way from or to a registry.
pub struct Transfer {
    what: String,
    bar: Option<ProgressBar>,
    begun: Instant,
    layers: Mutex<HashMap<Digest, (u64, u64)>>,
}

impl Transfer {
    /// `action` is `pulling` or `pushing`.
    pub fn new(action: &str, image: &str) -> Self {
        let what = format!("{action} {image}");
        let bar = screen::draws().then(|| {
            let bar = ProgressBar::new(0);
            let style = ProgressStyle::with_template(
                "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}",
            );
            if let Ok(style) = style {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_message(what.clone());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        if bar.is_none() {
            screen::note(&what);
        }
        Self { what, bar, begun: Instant::now(), layers: Mutex::default() }
    }

    fn change(&self, layer: &Digest, change: impl FnOnce(&mut (u64, u64))) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        change(layers.entry(*layer).or_default());
        if let Some(bar) = &self.bar {
            bar.set_length(layers.values().map(|(size, _)| size).sum());
            bar.set_position(layers.values().map(|(_, moved)| moved).sum());
        }
    }

    /// The end of it; what failed is told by the error.
    pub fn close(&self, fine: bool) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if fine {
            let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
            let bytes: u64 = layers.values().map(|(size, _)| size).sum();
            screen::note(format!(
                "{}: done, {} layers, {} in {:.1} s",
                self.what,
                layers.len(),
                screen::size(bytes),
                self.begun.elapsed().as_secs_f64()
            ));
        }
    }
}

impl LayerProgress for Transfer {
    fn started(&self, layer: &Digest, size: u64) {
        self.change(layer, |known| known.0 = size);
    }

    fn advanced(&self, layer: &Digest, bytes: u64) {
        self.change(layer, |known| known.1 = bytes);
    }

    fn finished(&self, layer: &Digest) {
        self.change(layer, |known| known.1 = known.0);
    }
}

/// One image being built. Steps that were done before are counted rather than listed: nothing happened.
pub struct BuildOutput {
    name: String,
    begun: Instant,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    cached: usize,
    run: usize,
    /// Output of steps that does not end a line yet.
    partial: HashMap<String, Vec<u8>>,
}

impl BuildOutput {
    /// `name` stands before every line.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), begun: Instant::now(), told: Mutex::default() }
    }

    /// The end of the build, good or bad.
    pub fn close(&self) {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = self.begun.elapsed().as_secs_f64();
        if told.run == 0 {
            screen::note(format!(
                "{}: nothing to build, {} steps unchanged",
                self.name, told.cached
            ));
        } else {
            screen::note(format!(
                "{}: {} steps run, {} unchanged, {seconds:.1} s",
                self.name, told.run, told.cached
            ));
        }
    }

    fn output(&self, step: &Step<'_>, bytes: &[u8]) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let partial = told.partial.entry(step.stage.to_owned()).or_default();
        partial.extend_from_slice(bytes);
        while let Some(end) = partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = partial.drain(..=end).collect();
            screen::note(format!("{}:   {}", self.name, String::from_utf8_lossy(&line).trim_end()));
        }
    }

    fn flush(&self, step: &Step<'_>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = told.partial.remove(step.stage).unwrap_or_default();
        if !rest.is_empty() {
            screen::note(format!("{}:   {}", self.name, String::from_utf8_lossy(&rest).trim_end()));
        }
    }
}

impl BuildProgress for BuildOutput {
    fn event(&self, step: &Step<'_>, event: Event<'_>) {
        match event {
            Event::Started => {
                self.told.lock().unwrap_or_else(PoisonError::into_inner).run += 1;
                let Step { stage, number, total, text } = step;
                screen::note(format!("{}: [{stage} {number}/{total}] {text}", self.name));
            }
            Event::Cached => self.told.lock().unwrap_or_else(PoisonError::into_inner).cached += 1,
            Event::Output(bytes) => self.output(step, bytes),
            Event::Done => self.flush(step),
        }
    }

    fn warning(&self, text: &str) {
        screen::note(format!("{}: warning: {text}", self.name));
    }
}

/// A line that says what is waited for, and lines above it for what has come to pass.
pub struct Waiting {
    bar: Option<ProgressBar>,
    last: String,
}

impl Waiting {
    /// Nothing is waited for yet.
    pub fn new() -> Self {
        let bar = screen::draws().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { bar, last: String::new() }
    }

    /// Says what is waited for now; without a terminal only when it is something else than before.
    pub fn on(&mut self, what: &str) {
        if self.last == what {
            return;
        }
        what.clone_into(&mut self.last);
        match &self.bar {
            Some(bar) => bar.set_message(what.to_owned()),
            None => screen::note(what),
        }
    }

    /// Says what has come to pass.
    pub fn reached(&self, what: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| screen::note(what)),
            None => screen::note(what),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
