//! The numbers as Prometheus reads them: the OpenMetrics text format, written by `prometheus-client`.

mod table;

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::sampling::{Board, Phase, Sample};
use crate::server::latency::Latency;
use table::{METRICS, Metric, Value};

pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What every name begins with.
const PREFIX: &str = "scaler_object_storage";

/// What is exposed at one moment.
#[derive(Debug)]
struct Exposition {
    phase: Phase,
    sample: Option<Arc<Sample>>,
    is_troubled: bool,
}

/// The text of all metrics.
pub(super) fn text(board: &Board) -> Result<String, fmt::Error> {
    let exposition =
        Exposition { phase: board.phase(), sample: board.latest(), is_troubled: !board.complaints().is_empty() };
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(exposition));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let encoder = &mut encoder;
        let is_ready = Value::from(self.phase == Phase::Ready);
        number(
            encoder,
            "ready",
            "1 while clients are served, otherwise 0 (starting or stopping).",
            MetricType::Gauge,
            &is_ready,
        )?;
        let is_degraded = Value::from(self.is_troubled);
        number(
            encoder,
            "degraded",
            "1 where something does not work that should, otherwise 0: see complaint_seconds.",
            MetricType::Gauge,
            &is_degraded,
        )?;
        let Some(sample) = &self.sample else { return Ok(()) };
        let help = "For how long something has not worked, by its kind; absent where all is well.";
        let mut complaints = encoder.encode_descriptor("complaint_seconds", help, None, MetricType::Gauge)?;
        for reason in &sample.stats.health.reasons {
            complaints.encode_family(&[("kind", reason.kind.as_str())])?.encode_gauge(&reason.since_seconds)?;
        }
        let age = Value::from(sample.taken.elapsed().as_secs_f64());
        number(
            encoder,
            "sample_age_seconds",
            "How old the other numbers are: more than some seconds where Redis does not answer the backend redis.",
            MetricType::Gauge,
            &age,
        )?;
        let labels = [("version", sample.stats.version.as_str()), ("backend", sample.stats.backend.as_str())];
        let mut info = encoder.encode_descriptor(
            "info",
            "Always 1; its labels tell the version and the backend.",
            None,
            MetricType::Gauge,
        )?;
        info.encode_family(&labels)?.encode_gauge(&1_u64)?;
        for Metric { name, kind, help, value } in &METRICS {
            if let Some(value) = value(sample) {
                number(encoder, name, help, *kind, &value)?;
            }
        }
        self.encode_times(encoder, sample)
    }
}

impl Exposition {
    fn encode_times(&self, encoder: &mut DescriptorEncoder<'_>, sample: &Sample) -> Result<(), fmt::Error> {
        let help = "How long requests of clients took, until their reply was queued; operation wait: until the object existed that was waited for.";
        let bounds = Latency::bounds();
        let mut times = encoder.encode_descriptor("request_seconds", help, None, MetricType::Histogram)?;
        for (operation, latency) in &sample.server.operations {
            // The encoder's word for "no bound".
            let bounds = bounds.iter().copied().chain([f64::MAX]);
            let buckets: Vec<(f64, u64)> = bounds.zip(latency.buckets.iter().copied()).collect();
            let labels = [("operation", operation.as_str())];
            let mut encoder = times.encode_family(&labels)?;
            encoder.encode_histogram::<NoLabelSet>(latency.sum_seconds, latency.count, &buckets, None)?;
        }
        Ok(())
    }
}

fn number(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    value: &Value,
) -> Result<(), fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    match (kind, value) {
        (MetricType::Counter, Value::Whole(value)) => metric.encode_counter::<NoLabelSet, _, f64>(value, None),
        (MetricType::Counter, Value::Real(value)) => metric.encode_counter::<NoLabelSet, _, f64>(value, None),
        // The encoder's whole numbers have a sign.
        (_, Value::Whole(value)) => match i64::try_from(*value) {
            Ok(value) => metric.encode_gauge(&value),
            Err(_) => metric.encode_gauge(&(*value as f64)),
        },
        (_, Value::Real(value)) => metric.encode_gauge(value),
    }
}
