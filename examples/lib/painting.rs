//! Pictures that no camera took: a few kinds of scenes, each drawn at random from endlessly many, painted at
//! any size.
//!
//! Only additions, multiplications, divisions and comparisons decide a pixel. They are exact to the bit on
//! every machine (unlike sines), so that a seed gives the same picture everywhere.

use image::{Rgb, RgbImage};

use crate::random::{SplitMix64, mix};

/// What a scene shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Mountain ridges one behind the other, under a sky with a sun.
    Mountains,
    /// A meadow full of round flowers.
    Meadow,
    /// Towers with lit windows at night.
    City,
    /// Sailing boats before the horizon.
    Sea,
}

impl Subject {
    /// Every subject.
    pub const ALL: [Self; 4] = [Self::Mountains, Self::Meadow, Self::City, Self::Sea];
}

type Colour = [f32; 3];

/// A shape in a unit square: x runs from 0 at the left to 1 at the right, y from 0 at the top to 1 at the
/// bottom.
#[derive(Clone, Debug)]
enum Shape {
    Disc {
        x: f32,
        y: f32,
        radius: f32,
    },
    Box {
        left: f32,
        top: f32,
        right: f32,
        bottom: f32,
    },
    /// Upright at `x`, its foot at `y`, leaning out to the right by `width`.
    Sail {
        x: f32,
        y: f32,
        width: f32,
        height: f32,
    },
    /// Everything below a line that wanders by up to `amplitude` around `y`.
    Ridge {
        y: f32,
        amplitude: f32,
        seed: u64,
    },
}

/// A scene, ready to be painted.
#[derive(Clone, Debug)]
pub struct Scene {
    sky: [Colour; 2],
    /// Painted one over the other.
    shapes: Vec<(Shape, Colour)>,
}

impl Scene {
    /// The scene of this subject that belongs to `seed`.
    pub fn new(subject: Subject, seed: u64) -> Self {
        let mut random = SplitMix64::new(mix(seed) ^ subject as u64);
        match subject {
            Subject::Mountains => mountains(&mut random),
            Subject::Meadow => meadow(&mut random),
            Subject::City => city(&mut random),
            Subject::Sea => sea(&mut random),
        }
    }

    /// Paints the scene as a picture of `width` x `height` pixels.
    pub fn paint(&self, width: u32, height: u32) -> RgbImage {
        let (w, h) = (width as f32, height as f32);
        let mut picture = RgbImage::from_fn(width, height, |_, row| {
            let [top, bottom] = self.sky;
            pixel(blend(top, bottom, (row as f32 + 0.5) / h))
        });
        for (shape, colour) in &self.shapes {
            let [left, top, right, bottom] = shape.bounds();
            for row in first(top, height)..first(bottom, height) {
                for column in first(left, width)..first(right, width) {
                    if shape.covers((column as f32 + 0.5) / w, (row as f32 + 0.5) / h) {
                        picture.put_pixel(column, row, pixel(*colour));
                    }
                }
            }
        }
        picture
    }
}

/// The first of `count` pixels whose middle is not left of `at`.
fn first(at: f32, count: u32) -> u32 {
    // A float cast saturates, so that a place outside the picture becomes its edge.
    ((at * count as f32 + 0.5) as u32).min(count)
}

fn blend(from: Colour, to: Colour, share: f32) -> Colour {
    [0, 1, 2].map(|channel| from[channel] * (1.0 - share) + to[channel] * share)
}

fn pixel(colour: Colour) -> Rgb<u8> {
    Rgb(colour.map(|value| (value + 0.5) as u8))
}

impl Shape {
    /// Left, top, right and bottom of a box around the shape.
    fn bounds(&self) -> [f32; 4] {
        match *self {
            Shape::Disc { x, y, radius } => [x - radius, y - radius, x + radius, y + radius],
            Shape::Box { left, top, right, bottom } => [left, top, right, bottom],
            Shape::Sail { x, y, width, height } => [x, y - height, x + width, y],
            Shape::Ridge { y, amplitude, .. } => [0.0, y - amplitude, 1.0, 1.0],
        }
    }

    fn covers(&self, at_x: f32, at_y: f32) -> bool {
        match *self {
            Shape::Disc { x, y, radius } => {
                let (dx, dy) = (at_x - x, at_y - y);
                dx * dx + dy * dy <= radius * radius
            }
            Shape::Box { left, top, right, bottom } => {
                (left..right).contains(&at_x) && (top..bottom).contains(&at_y)
            }
            Shape::Sail { x, y, width, height } => {
                let up = (y - at_y) / height;
                (0.0..=1.0).contains(&up) && at_x >= x && at_x - x <= width * (1.0 - up)
            }
            Shape::Ridge { y, amplitude, seed } => {
                let coarse = wander(seed, at_x * 5.0);
                let fine = wander(seed ^ 1, at_x * 17.0);
                at_y >= y + amplitude * (0.75 * coarse + 0.25 * fine)
            }
        }
    }
}

/// A smooth random line through random heights in `[-1, 1)` at the whole numbers.
fn wander(seed: u64, at: f32) -> f32 {
    let cell = at as u64;
    let within = at - cell as f32;
    let height = |cell: u64| SplitMix64::new(mix(seed) ^ cell).next_signed();
    let eased = within * within * (3.0 - 2.0 * within);
    height(cell) * (1.0 - eased) + height(cell + 1) * eased
}

fn colour(random: &mut SplitMix64, low: Colour, high: Colour) -> Colour {
    [0, 1, 2].map(|channel| random.between(low[channel], high[channel]))
}

fn mountains(random: &mut SplitMix64) -> Scene {
    let sky = [
        colour(random, [30.0, 60.0, 120.0], [120.0, 150.0, 230.0]),
        colour(random, [180.0, 120.0, 90.0], [255.0, 220.0, 200.0]),
    ];
    let sun = Shape::Disc {
        x: random.between(0.1, 0.9),
        y: random.between(0.1, 0.35),
        radius: random.between(0.04, 0.09),
    };
    let mut shapes = vec![(sun, [255.0, 244.0, 200.0])];
    let near = colour(random, [10.0, 30.0, 20.0], [70.0, 80.0, 60.0]);
    let ridges = 3 + random.below(3);
    for ridge in 1..=ridges {
        let share = ridge as f32 / ridges as f32;
        let shape = Shape::Ridge {
            y: 0.25 + 0.55 * share,
            amplitude: random.between(0.08, 0.2),
            seed: random.next_u64(),
        };
        shapes.push((shape, blend(sky[1], near, share)));
    }
    Scene { sky, shapes }
}

fn meadow(random: &mut SplitMix64) -> Scene {
    let sky = [
        colour(random, [90.0, 140.0, 40.0], [170.0, 220.0, 110.0]),
        colour(random, [20.0, 70.0, 10.0], [70.0, 130.0, 50.0]),
    ];
    let petals = [
        colour(random, [190.0, 20.0, 20.0], [255.0, 120.0, 90.0]),
        colour(random, [200.0, 160.0, 20.0], [255.0, 240.0, 120.0]),
        colour(random, [120.0, 60.0, 160.0], [210.0, 150.0, 255.0]),
    ];
    let mut shapes = Vec::new();
    for _ in 0..12 + random.below(18) {
        let (x, y) = (random.between(0.03, 0.97), random.between(0.1, 0.95));
        // A lower flower is nearer, and therefore larger.
        let radius = random.between(0.02, 0.05) * (0.5 + 1.3 * y);
        let stem =
            Shape::Box { left: x - radius * 0.1, top: y, right: x + radius * 0.1, bottom: y + radius * 3.0 };
        shapes.push((stem, [25.0, 80.0, 25.0]));
        let petal = petals[random.below(3) as usize];
        shapes.push((Shape::Disc { x, y, radius }, petal));
        shapes.push((Shape::Disc { x, y, radius: radius * 0.4 }, blend(petal, [60.0, 30.0, 10.0], 0.8)));
    }
    Scene { sky, shapes }
}

fn city(random: &mut SplitMix64) -> Scene {
    let sky = [
        colour(random, [2.0, 4.0, 20.0], [20.0, 20.0, 60.0]),
        colour(random, [40.0, 20.0, 60.0], [130.0, 80.0, 110.0]),
    ];
    let moon = Shape::Disc {
        x: random.between(0.1, 0.9),
        y: random.between(0.08, 0.25),
        radius: random.between(0.03, 0.07),
    };
    let mut shapes = vec![(moon, [235.0, 235.0, 215.0])];
    let mut left = random.between(-0.05, 0.02);
    while left < 1.0 {
        let right = left + random.between(0.07, 0.17);
        let top = random.between(0.2, 0.75);
        shapes.push((
            Shape::Box { left, top, right, bottom: 1.0 },
            colour(random, [15.0, 15.0, 25.0], [60.0, 55.0, 70.0]),
        ));
        let (columns, step) = (3, (right - left) / 3.0);
        for column in 0..columns {
            let x = left + step * (column as f32 + 0.3);
            let mut y = top + 0.03;
            while y < 0.95 {
                if random.below(3) > 0 {
                    let window = Shape::Box { left: x, top: y, right: x + step * 0.4, bottom: y + 0.03 };
                    shapes.push((window, colour(random, [200.0, 150.0, 60.0], [255.0, 230.0, 150.0])));
                }
                y += 0.07;
            }
        }
        left = right + random.between(0.0, 0.03);
    }
    Scene { sky, shapes }
}

fn sea(random: &mut SplitMix64) -> Scene {
    let sky = [
        colour(random, [90.0, 160.0, 210.0], [170.0, 210.0, 250.0]),
        colour(random, [200.0, 215.0, 225.0], [245.0, 245.0, 250.0]),
    ];
    let horizon = random.between(0.4, 0.6);
    let water = colour(random, [10.0, 60.0, 90.0], [40.0, 120.0, 150.0]);
    let mut shapes = vec![(Shape::Box { left: 0.0, top: horizon, right: 1.0, bottom: 1.0 }, water)];
    for wave in 0..5 {
        let y = horizon + (1.0 - horizon) * (wave as f32 + 1.0) / 6.0;
        let shape = Shape::Ridge { y, amplitude: 0.02, seed: random.next_u64() };
        shapes.push((shape, blend(water, [5.0, 25.0, 50.0], (wave as f32 + 1.0) / 6.0)));
    }
    for _ in 0..2 + random.below(4) {
        let (x, y) = (random.between(0.05, 0.8), horizon + random.between(0.02, 0.25));
        let height = random.between(0.15, 0.4);
        let width = height * random.between(0.4, 0.7);
        let hull = Shape::Box { left: x - width * 0.3, top: y, right: x + width, bottom: y + height * 0.12 };
        shapes.push((hull, colour(random, [60.0, 20.0, 10.0], [150.0, 80.0, 50.0])));
        shapes.push((
            Shape::Sail { x, y, width, height },
            colour(random, [200.0, 190.0, 180.0], [255.0, 255.0, 250.0]),
        ));
    }
    Scene { sky, shapes }
}

#[cfg(test)]
mod tests {
    use super::{Scene, Subject};

    /// Pins a few pixels, so that a change of the painter cannot quietly change what load tests measure.
    #[test]
    fn a_seed_always_gives_the_same_picture() {
        for subject in Subject::ALL {
            let picture = Scene::new(subject, 1).paint(60, 40);
            assert_eq!(picture, Scene::new(subject, 1).paint(60, 40));
            assert_ne!(picture, Scene::new(subject, 2).paint(60, 40), "{subject:?}");
        }
    }

    #[test]
    fn a_scene_keeps_its_shape_at_another_size() {
        for subject in Subject::ALL {
            let scene = Scene::new(subject, 3);
            let (small, large) = (scene.paint(40, 30), scene.paint(120, 90));
            let same = small
                .enumerate_pixels()
                .filter(|(x, y, pixel)| {
                    let other = large.get_pixel(x * 3 + 1, y * 3 + 1);
                    pixel.0.iter().zip(other.0).all(|(one, other)| one.abs_diff(other) <= 2)
                })
                .count();
            assert!(same > 40 * 30 * 9 / 10, "{subject:?}: {same}");
        }
    }
}
