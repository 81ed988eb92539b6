//! The learning rate of each step: a linear warm-up, then half a cosine down to a remainder.
//!
//! A pure function of the step, so that a resumed run needs nothing but the step.

use std::f64::consts::PI;

use crate::OptimizerSettings;

#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    peak: f64,
    final_share: f64,
    warm_up_steps: u64,
    steps: u64,
}

impl Schedule {
    /// A warm-up longer than the run takes all of it.
    pub(crate) fn new(settings: &OptimizerSettings, steps: u64) -> Self {
        Self {
            peak: settings.learning_rate,
            final_share: settings.final_learning_rate_share,
            warm_up_steps: settings.warm_up_steps.min(steps),
            steps,
        }
    }

    /// The learning rate of step `step`, counted from 0.
    pub(crate) fn learning_rate(&self, step: u64) -> f64 {
        if step < self.warm_up_steps {
            return self.peak * (step + 1) as f64 / self.warm_up_steps as f64;
        }
        let falling_steps = (self.steps - self.warm_up_steps).max(1);
        let progress = ((step - self.warm_up_steps + 1) as f64 / falling_steps as f64).min(1.0);
        let cosine = (1.0 + (PI * progress).cos()) / 2.0;
        self.peak * (self.final_share + (1.0 - self.final_share) * cosine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(warm_up_steps: u64, steps: u64) -> Vec<f64> {
        let settings = OptimizerSettings {
            learning_rate: 2.0,
            warm_up_steps,
            final_learning_rate_share: 0.1,
            ..OptimizerSettings::default()
        };
        let schedule = Schedule::new(&settings, steps);
        (0..steps).map(|step| schedule.learning_rate(step)).collect()
    }

    #[test]
    fn it_rises_to_the_peak_and_falls_to_the_remainder() {
        let rates = rates(4, 24);
        assert_eq!(&rates[..4], [0.5, 1.0, 1.5, 2.0]);
        assert!(rates[3..].windows(2).all(|pair| pair[1] < pair[0]), "{rates:?}");
        // Half-way down the cosine lies the mean of peak and remainder.
        assert!((rates[13] - 1.1).abs() < 1e-12, "{rates:?}");
        assert!((rates[23] - 0.2).abs() < 1e-12, "{rates:?}");
    }

    #[test]
    fn it_needs_no_warm_up_and_survives_one_longer_than_the_run() {
        assert!(rates(0, 3).windows(2).all(|pair| pair[1] < pair[0]));
        assert_eq!(rates(100, 4), [0.5, 1.0, 1.5, 2.0]);
    }
}
