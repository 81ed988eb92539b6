use std::collections::BTreeMap;

use forebay::Dtype;

use super::*;
use crate::{
    LanguageModelScorer, ModelSettings, OptimizerSettings, parameters::matrix, state::StoredTensor,
};

const VOCABULARY_SIZE: usize = 11;
const ROW_TOKENS: usize = 9;

fn settings() -> TrainerSettings {
    let model =
        ModelSettings { width: 16, layers: 2, heads: 2, hidden_width: 24, lookback_tokens: 2 };
    let optimizer =
        OptimizerSettings { learning_rate: 1e-2, warm_up_steps: 2, ..OptimizerSettings::default() };
    TrainerSettings { model, optimizer, input_noise: 0.1, lanes: 2 }
}

fn trainer_with(settings: &TrainerSettings, seed: u64) -> Trainer {
    let runtime = Runtime::system();
    Trainer::new(settings, VOCABULARY_SIZE, ROW_TOKENS, 40, seed, &runtime).unwrap()
}

fn trainer() -> Trainer {
    trainer_with(&settings(), 1)
}

/// A batch of `rows` rows that `seed` decides.
fn batch(rows: usize, seed: u64) -> Vec<u32> {
    let mut random = Random::new(seed);
    (0..rows * ROW_TOKENS).map(|_| random.below(VOCABULARY_SIZE as u64) as u32).collect()
}

/// Every branch of the network takes part: no matrix is zero any more.
fn roughened(settings: &TrainerSettings) -> Trainer {
    let mut trainer = trainer_with(settings, 3);
    let mut random = Random::new(4);
    let rough = trainer.parameters.0.iter().map(|parameter| {
        let [rows, columns] = parameter.plan.shape;
        let draw = |_| (random.normal() * 0.4) as f32;
        matrix((0..rows * columns).map(draw).collect(), [rows, columns])
    });
    let rough = rough.collect();
    trainer.parameters.replace(rough);
    trainer
}

/// Everything a checkpoint would hold, as it would lie in a file.
type Saved = (BTreeMap<String, (Dtype, Vec<u64>, Vec<u8>)>, serde_json::Value);

fn saved(trainer: &Trainer) -> Saved {
    let tensors = trainer.state().into_iter().map(|tensor| {
        (tensor.name.into_owned(), (tensor.dtype, tensor.shape, tensor.bytes.into_owned()))
    });
    let metadata = serde_json::from_str(&trainer.metadata().to_string()).unwrap();
    (tensors.collect(), metadata)
}

fn stored(saved: &Saved, step: u64) -> Stored<'_> {
    let tensors = saved.0.iter().map(|(name, (dtype, shape, bytes))| {
        (name.as_str(), StoredTensor { dtype: *dtype, shape, bytes })
    });
    Stored::new(step, tensors)
}

fn loss_and_gradients(trainer: &Trainer, tokens: &[u32]) -> (f64, Vec<Tensor<2>>) {
    let rows = Rows::new(tokens, &trainer.shape).unwrap();
    trainer.gradients(rows, rows)
}

/// The loss with weight `index` moved by `distance` along `direction`.
fn moved_loss(
    trainer: &Trainer,
    tokens: &[u32],
    index: usize,
    direction: &Tensor<2>,
    distance: f64,
) -> f64 {
    let mut moved = trainer.clone();
    let value = &mut moved.parameters.0[index].value;
    *value = value.clone() + direction.clone().mul_scalar(distance);
    loss_and_gradients(&moved, tokens).0
}

#[test]
fn gradients_agree_with_finite_differences() {
    const DISTANCE: f64 = 1e-2;
    let trainer = roughened(&settings());
    let tokens = batch(3, 5);
    let (_, gradients) = loss_and_gradients(&trainer, &tokens);
    for (index, gradient) in gradients.into_iter().enumerate() {
        let length = norm(std::slice::from_ref(&gradient));
        let direction = gradient.div_scalar(length);
        let ahead = moved_loss(&trainer, &tokens, index, &direction, DISTANCE);
        let behind = moved_loss(&trainer, &tokens, index, &direction, -DISTANCE);
        let measured = (ahead - behind) / (2.0 * DISTANCE);
        let name = &trainer.parameters.0[index].plan.name;
        assert!(length > 1e-3, "{name} does not shape the loss");
        assert!((measured - length).abs() < 0.02 * length + 2e-4, "{name}: {measured} {length}");
    }
}

#[test]
fn no_place_sees_what_comes_after_it() {
    let trainer = roughened(&settings());
    let logits = |tokens: &[u32]| {
        let rows = Rows::new(tokens, &trainer.shape).unwrap();
        let model = Model::over(&trainer.shape, trainer.parameters.values());
        let inputs = rows.inputs(&(0..1), trainer.shape.lookback_tokens, &crate::device());
        let logits = model.logits(inputs, &trainer.bias.clone().inner());
        logits.into_data().iter::<f32>().collect::<Vec<_>>()
    };
    let tokens = batch(1, 6);
    let before = logits(&tokens);
    for place in 0..ROW_TOKENS - 1 {
        let mut changed = tokens.clone();
        changed[place] = (changed[place] + 1) % VOCABULARY_SIZE as u32;
        let after = logits(&changed);
        let border = place * VOCABULARY_SIZE;
        assert_eq!(before[..border], after[..border], "place {place} reaches back");
        assert_ne!(before[border..], after[border..], "place {place} is not seen at all");
    }
}

#[test]
fn it_learns_one_batch_by_heart() {
    let tokens = batch(3, 7);
    let mut trainer = trainer_with(&TrainerSettings { input_noise: 0.0, ..settings() }, 1);
    let first = trainer.step(&tokens).unwrap().loss;
    for _ in 1..40 {
        trainer.step(&tokens).unwrap();
    }
    let last = trainer.loss().unwrap();
    assert!(first > 2.0 && last < 0.3, "{first} {last}");
}

#[test]
fn the_same_seed_and_batches_give_the_same_bits() {
    let after = |seed| {
        let mut trainer = trainer_with(&settings(), seed);
        for step in 0..4 {
            trainer.step(&batch(5, step)).unwrap();
        }
        saved(&trainer)
    };
    assert!(after(1) == after(1));
    assert!(after(1) != after(2));
}

#[test]
fn a_restored_trainer_goes_on_bit_for_bit() {
    let mut unbroken = trainer();
    for step in 0..3 {
        unbroken.step(&batch(4, step)).unwrap();
    }
    let checkpoint = saved(&unbroken);
    // Whatever the other had before is replaced: weights, moments, step and random state.
    let mut resumed = trainer_with(&settings(), 99);
    resumed.step(&batch(4, 50)).unwrap();
    resumed.load_stored(stored(&checkpoint, 3), &checkpoint.1).unwrap();
    assert!(saved(&resumed) == checkpoint);
    for step in 3..7 {
        let tokens = batch(4, step);
        assert_eq!(resumed.step(&tokens).unwrap(), unbroken.step(&tokens).unwrap());
    }
    assert!(saved(&resumed) == saved(&unbroken));
}

#[test]
fn each_part_of_the_state_matters_to_what_follows() {
    let mut original = trainer();
    for step in 0..3 {
        original.step(&batch(4, step)).unwrap();
    }
    let goes_on_alike = |change: fn(&mut Trainer)| {
        let (mut changed, mut kept) = (original.clone(), original.clone());
        change(&mut changed);
        (3..5).for_each(|step| {
            changed.step(&batch(4, step)).unwrap();
            kept.step(&batch(4, step)).unwrap();
        });
        saved(&changed).0 == saved(&kept).0
    };
    assert!(goes_on_alike(|_| ()));
    assert!(!goes_on_alike(|trainer| trainer.random = Random::new(0)));
    assert!(!goes_on_alike(|trainer| trainer.optimizer.step += 1));
    assert!(!goes_on_alike(|trainer| trainer.optimizer.first_moments = trainer.parameters.zeros()));
    assert!(
        !goes_on_alike(|trainer| trainer.optimizer.second_moments = trainer.parameters.zeros())
    );
}

#[test]
fn lanes_change_rounding_and_nothing_else() {
    let tokens = batch(5, 8);
    let with = |lanes| {
        let trainer = roughened(&TrainerSettings { lanes, ..settings() });
        let (loss, gradients) = loss_and_gradients(&trainer, &tokens);
        (loss, norm(&gradients))
    };
    let (loss, length) = with(1);
    for lanes in [2, 3, 8] {
        let (other_loss, other_length) = with(lanes);
        assert!((loss - other_loss).abs() < 1e-5 && (length / other_length - 1.0).abs() < 1e-5);
    }
}

#[test]
fn a_checkpoint_that_does_not_fit_is_refused_by_name_and_changes_nothing() {
    let good = saved(&trainer());
    let weight = "model.blocks.1.network.up.weight";
    let moment = "optimizer.second_moment.model.head.weight";
    type Break = fn(&mut Saved, &str);
    let broken: [(&str, Break); 6] = [
        (weight, |saved, name| drop(saved.0.remove(name))),
        (moment, |saved, name| drop(saved.0.remove(name))),
        ("model.extra", |saved, name| {
            saved.0.insert(name.into(), (Dtype::F32, vec![1], vec![0; 4]));
        }),
        (weight, |saved, name| saved.0.get_mut(name).unwrap().1.reverse()),
        (weight, |saved, name| saved.0.get_mut(name).unwrap().0 = Dtype::F64),
        ("metadata", |saved, _| drop(saved.1.as_object_mut().unwrap().remove("random"))),
    ];
    let mut trainer = trainer_with(&settings(), 2);
    let before = saved(&trainer);
    for (name, break_it) in broken {
        let mut checkpoint = good.clone();
        break_it(&mut checkpoint, name);
        let error = trainer.load_stored(stored(&checkpoint, 0), &checkpoint.1).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        assert!(saved(&trainer) == before);
    }
    let error = trainer.load_stored(stored(&good, 9), &good.1).unwrap_err();
    assert!(matches!(error, Error::StepMismatch { step: 9, optimizer_step: 0 }), "{error}");
}

#[test]
fn divergence_is_an_error_before_it_spoils_the_weights() {
    let mut trainer = trainer();
    let shape = trainer.parameters.0[0].plan.shape;
    trainer.parameters.0[0].value = matrix(vec![f32::NAN; shape[0] * shape[1]], shape);
    let before = saved(&trainer).0;
    let error = trainer.step(&batch(2, 1)).unwrap_err();
    assert!(matches!(error, Error::Diverged { step: 0, .. }), "{error}");
    let same = |(name, tensor): (&String, &(Dtype, Vec<u64>, Vec<u8>))| before[name].2 == tensor.2;
    assert!(saved(&trainer).0.iter().all(same));
}

#[test]
fn a_scorer_takes_the_weights_and_scores_rows_alike_however_they_are_grouped() {
    let runtime = Runtime::system();
    let mut trainer = trainer_with(&TrainerSettings { input_noise: 0.0, ..settings() }, 1);
    let tokens = batch(4, 9);
    for _ in 0..40 {
        trainer.step(&tokens).unwrap();
    }
    let checkpoint = saved(&trainer);
    let mut scorer =
        LanguageModelScorer::untrained(&settings(), VOCABULARY_SIZE, ROW_TOKENS, &runtime).unwrap();
    scorer.load_stored(stored(&checkpoint, 40)).unwrap();
    let whole = scorer.score_tokens(&tokens).unwrap();
    let expected = loss_and_gradients(&trainer, &tokens).0;
    assert_eq!(whole.predictions, 32);
    assert!((whole.loss_sum / 32.0 - expected).abs() < 1e-5, "{whole:?} {expected}");
    assert!(whole.correct >= 30, "{whole:?}");
    let rows = tokens.chunks(ROW_TOKENS).map(|row| scorer.score_tokens(row).unwrap());
    let apart = rows.fold((0, 0.0, 0), |sum, score| {
        (sum.0 + score.predictions, sum.1 + score.loss_sum, sum.2 + score.correct)
    });
    assert_eq!((apart.0, apart.2), (whole.predictions, whole.correct));
    assert!((apart.1 - whole.loss_sum).abs() < 1e-3, "{apart:?} {whole:?}");
}

#[test]
fn a_scorer_needs_the_weights_alone() {
    let runtime = Runtime::system();
    let mut scorer =
        LanguageModelScorer::untrained(&settings(), VOCABULARY_SIZE, ROW_TOKENS, &runtime).unwrap();
    let mut checkpoint = saved(&trainer());
    checkpoint.0.retain(|name, _| name.starts_with("model."));
    scorer.load_stored(stored(&checkpoint, 0)).unwrap();
    checkpoint.0.remove("model.head.weight");
    let error = scorer.load_stored(stored(&checkpoint, 0)).unwrap_err();
    assert!(error.to_string().contains("model.head.weight"), "{error}");
}
