//! Which patches are hidden.
//!
//! Source: Bao et al., 2021 (BEiT), algorithm 1: <https://arxiv.org/abs/2106.08254>, with the numbers of its code
//! (`microsoft/unilm`, `beit/masking_generator.py`); Xie et al., 2021 (SimMIM), section 3.2:
//! <https://arxiv.org/abs/2111.09886>.
use super::Grid;
use rand::RngExt;
use rand::seq::SliceRandom;
use ssl_core::{Batch, Result, Rng, rng};
use tch::{Device, Kind, Tensor};

/// The stream of random numbers of masks.
const MASKS: u64 = 21;
/// Tries to find a place for a block.
const TRIES: u32 = 10;
/// The flattest block, height over width; the steepest is as narrow.
const FLATTEST: f64 = 0.3;

/// Where the random numbers of masks come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chance {
    /// libtorch's generator on the CPU, which the trainer seeds at each step.
    Generator,
    /// The same at every call, so that held-out numbers can be compared.
    Fixed,
}

impl Chance {
    /// A generator for each image of a batch, which depends on its place alone where the seed is fixed.
    pub(crate) fn of_images(self, images: i64) -> Result<impl Iterator<Item = Rng>> {
        let seed = match self {
            Chance::Generator => {
                i64::try_from(Tensor::f_randint(i64::MAX, [1], (Kind::Int64, Device::Cpu))?)?
            }
            Chance::Fixed => 0,
        };
        Ok((0..images).map(move |image| rng(seed.unsigned_abs(), &[MASKS, image.unsigned_abs()])))
    }
}

/// The hidden patches of a batch. Both forms are made on the host, so that their number is known without a wait.
#[derive(Debug)]
pub(crate) struct Mask {
    /// True is hidden. Bool `[B, N]`.
    pub(crate) hidden: Tensor,
    /// Where the hidden ones lie among the patches of all images. `[M]`.
    pub(crate) index: Tensor,
    /// How many each image has.
    pub(crate) counts: Vec<i64>,
}

impl Mask {
    /// A mask of `images` images, each drawn by `of_one`, with one bool for every patch.
    pub(crate) fn draw(
        (images, device): (i64, Device),
        chance: Chance,
        of_one: impl Fn(&mut Rng) -> Vec<bool>,
    ) -> Result<Self> {
        let flags: Vec<Vec<bool>> = chance.of_images(images)?.map(|mut rng| of_one(&mut rng)).collect();
        let counts =
            flags.iter().map(|flags| flags.iter().filter(|&&hidden| hidden).count() as i64).collect();
        let all = flags.concat();
        let index: Vec<i64> =
            (0..).zip(&all).filter(|&(_, &hidden)| hidden).map(|(place, _)| place).collect();
        let hidden = Tensor::f_from_slice(&all)?.f_view([images, -1])?.f_to_device(device)?;
        Ok(Mask { hidden, index: Tensor::f_from_slice(&index)?.f_to_device(device)?, counts })
    }

    /// Hides blocks of `part` of the patches of square images; see [`blocks`].
    pub(crate) fn of_blocks(x: &Tensor, grid: &Grid, part: f64, least: i64, chance: Chance) -> Result<Self> {
        let count = (grid.patches() as f64 * part) as i64;
        Mask::draw((x.len(), x.device()), chance, |rng| blocks(grid.side, count, least, rng))
    }

    /// What each hidden patch counts in the mean over images of the mean over their hidden patches. `[M]`.
    pub(crate) fn weights(&self) -> Result<Tensor> {
        let images = self.counts.len();
        let of_image = |&count: &i64| (0..count).map(move |_| 1. / (count * images as i64) as f32);
        let weights: Vec<f32> = self.counts.iter().flat_map(of_image).collect();
        Ok(Tensor::f_from_slice(&weights)?.f_to_device(self.index.device())?)
    }
}

/// Hides squares of `unit` times `unit` patches of a square grid, wherever they fall: `part` of them, rounded up.
///
/// `unit` divides `side`.
pub(crate) fn scattered(side: i64, unit: i64, part: f64, rng: &mut Rng) -> Vec<bool> {
    let across = side / unit;
    let squares = across * across;
    let hidden = (squares as f64 * part).ceil() as i64;
    let mut flags: Vec<bool> = (0..squares).map(|square| square < hidden).collect();
    flags.shuffle(rng);
    let of = |row: i64, column: i64| flags.get((row / unit * across + column / unit) as usize).copied();
    let places = (0..side).flat_map(|row| (0..side).map(move |column| (row, column)));
    places.map(|(row, column)| of(row, column).unwrap_or(false)).collect()
}

/// Hides blocks of a square grid, each of `least` patches or more where so many are left, until `count` patches are
/// hidden, or fewer where no block fits any more.
pub(crate) fn blocks(side: i64, count: i64, least: i64, rng: &mut Rng) -> Vec<bool> {
    let mut flags = vec![false; (side * side).max(0) as usize];
    let mut left = count;
    while left > 0 {
        let Some(fresh) = (0..TRIES).find_map(|_| block(side, left, least, &flags, rng)) else { break };
        left -= fresh.len() as i64;
        for place in fresh {
            if let Some(flag) = flags.get_mut(place) {
                *flag = true;
            }
        }
    }
    flags
}

/// The places that a random block adds, of which there may be `most`; none where it does not fit or adds nothing.
fn block(side: i64, most: i64, least: i64, flags: &[bool], rng: &mut Rng) -> Option<Vec<usize>> {
    // From one to the other, whichever is larger, as Python draws.
    let area = least as f64 + (most - least) as f64 * rng.random::<f64>();
    let aspect = (FLATTEST.ln() * (1. - 2. * rng.random::<f64>())).exp();
    let [height, width] = [area * aspect, area / aspect].map(|square| square.sqrt().round() as i64);
    if height >= side || width >= side {
        return None;
    }
    let (top, left) = (rng.random_range(0..=side - height), rng.random_range(0..=side - width));
    let places =
        (top..top + height).flat_map(|row| (left..left + width).map(move |column| row * side + column));
    let fresh: Vec<usize> =
        places.map(|place| place as usize).filter(|&place| flags.get(place) == Some(&false)).collect();
    (1..=most).contains(&(fresh.len() as i64)).then_some(fresh)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(draw: impl Fn(&mut Rng) -> Vec<bool>) -> Vec<i64> {
        Mask::draw((200, Device::Cpu), Chance::Fixed, draw).unwrap().counts
    }

    #[test]
    fn scattered_squares_are_as_many_as_asked_and_whole() {
        assert!(counted(|rng| scattered(6, 2, 0.6, rng)).iter().all(|&count| count == 4 * 6));
        let mask = Mask::draw((200, Device::Cpu), Chance::Fixed, |rng| scattered(6, 2, 0.6, rng)).unwrap();
        let squares = mask.hidden.view([200, 3, 2, 3, 2]).to_kind(Kind::Float).mean_dim(
            [2i64, 4].as_slice(),
            false,
            Kind::Float,
        );
        assert!(squares.eq(0.).logical_or(&squares.eq(1.)).all() == Tensor::from(true));
        // Each is hidden about as often as any other.
        let often = squares.mean_dim([0i64].as_slice(), false, Kind::Float);
        assert!(often.allclose(&often.full_like(6. / 9.), 0., 0.12, false), "{often:?}");
    }

    #[test]
    fn blocks_hide_what_is_asked_and_rarely_less_and_hang_together() {
        let counts = counted(|rng| blocks(14, 120, 16, rng));
        assert!(
            counts.iter().all(|&count| count <= 120) && counts.iter().sum::<i64>() > 118 * 200,
            "{counts:?}"
        );
        // Hidden patches have hidden neighbors to their right more often than by chance.
        let beside = |draw: &dyn Fn(&mut Rng) -> Vec<bool>| {
            let mask =
                Mask::draw((200, Device::Cpu), Chance::Fixed, draw).unwrap().hidden.view([200, 14, 14]);
            let both = mask.narrow(2, 0, 13).logical_and(&mask.narrow(2, 1, 13));
            f64::try_from(both.to_kind(Kind::Float).mean(Kind::Double)).unwrap()
        };
        let (block, random) =
            (beside(&|rng| blocks(14, 78, 16, rng)), beside(&|rng| scattered(14, 1, 0.4, rng)));
        assert!(block > 1.6 * random && random < 0.18, "{block} {random}");
    }

    #[test]
    fn a_first_block_has_its_area_and_aspect() {
        let (mut flat, mut steep) = (0, 0);
        for mut rng in Chance::Fixed.of_images(500).unwrap() {
            let Some(places) = block(14, 60, 16, &[false; 196], &mut rng) else { continue };
            let rows: Vec<usize> = places.iter().map(|place| place / 14).collect();
            let height = (rows[rows.len() - 1] - rows[0] + 1) as f64;
            let width = places.len() as f64 / height;
            assert_eq!(width.fract(), 0.);
            // Each side is rounded.
            assert!((height - 0.5) / (width + 0.5) < 1. / 0.3 && (height + 0.5) / (width - 0.5) > 0.3);
            assert!((9..=60).contains(&places.len()), "{}", places.len());
            flat += usize::from(width > 1.5 * height);
            steep += usize::from(height > 1.5 * width);
        }
        assert!(flat > 60 && steep > 60, "{flat} {steep}");
    }

    #[test]
    fn fixed_masks_depend_on_the_place_in_the_batch_alone_and_others_on_the_generator() {
        let draw = |images, chance| {
            Mask::draw((images, Device::Cpu), chance, |rng| scattered(4, 1, 0.5, rng)).unwrap()
        };
        let (few, many) = (draw(2, Chance::Fixed), draw(5, Chance::Fixed));
        assert!(
            many.hidden.narrow(0, 0, 2).equal(&few.hidden) && many.index.narrow(0, 0, 16).equal(&few.index)
        );
        assert!(!many.hidden.get(0).equal(&many.hidden.get(1)));
        let [a, b] = [(); 2].map(|()| draw(5, Chance::Generator).hidden);
        assert!(!a.equal(&b));
        let marked = many.hidden.zeros_like().view(-1).index_fill(0, &many.index, 1.).view([5, 16]);
        assert!(marked.equal(&many.hidden) && many.counts == [8; 5]);
    }
}
