//! The world as every start finds it: 40 customers, 30 products, 120 orders, a few discounts. A small generator with a
//! fixed seed picks the details, so a test may rely on any of them.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    model::{Category, Cents, Customer, Discount, DiscountKind, Order, OrderEvent, OrderLine, OrderStatus, Product, Tier},
    shop::World,
};

const CUSTOMERS: usize = 40;
const ORDERS: usize = 120;
/// 2026-01-01T08:00:00Z; the shop's own time goes on from the last order.
const OPENING: i64 = 1_767_254_400;

const FIRST: [&str; 20] = [
    "Ada", "Ben", "Chiara", "Dmitri", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kaya", "Lena", "Mateo", "Nora",
    "Oskar", "Paula", "Quinn", "Rosa", "Samir", "Tove",
];
const LAST: [&str; 10] = ["Adler", "Bianchi", "Costa", "Dahl", "Evans", "Fischer", "Garcia", "Holm", "Ivanova", "Jansen"];
const PLACES: [(&str, &str); 8] = [
    ("Berlin", "DE"),
    ("Lisbon", "PT"),
    ("Oslo", "NO"),
    ("Austin", "US"),
    ("Toronto", "CA"),
    ("Milan", "IT"),
    ("Leeds", "GB"),
    ("Utrecht", "NL"),
];
const PRODUCTS: [(Category, &str, [&str; 6]); 5] = [
    (Category::Kitchen, "KIT", ["Enamel mug", "Cast iron pan", "Bread knife", "Kettle", "Moka pot", "Cutting board"]),
    (Category::Office, "OFF", ["Notebook A5", "Desk lamp", "Fountain pen", "Paper tray", "Monitor stand", "Cable box"]),
    (Category::Outdoor, "OUT", ["Camp stove", "Head torch", "Dry bag", "Hammock", "Water filter", "Trail map"]),
    (Category::Books, "BOO", ["City atlas", "Bird guide", "Soup cookbook", "Logic puzzles", "Sea stories", "Star charts"]),
    (Category::Toys, "TOY", ["Wooden train", "Kite", "Marble run", "Puzzle 500", "Yo-yo", "Building bricks"]),
];

pub fn world() -> World {
    let mut dice = Dice(0x5eed);
    let customers: BTreeMap<_, _> = (0..CUSTOMERS).map(|n| customer(n, &mut dice)).map(|c| (c.id.clone(), c)).collect();
    let products: BTreeMap<_, _> = products(&mut dice).map(|p| (p.sku.clone(), p)).collect();
    let mut world = World {
        customers,
        products,
        orders: BTreeMap::new(),
        histories: BTreeMap::new(),
        discounts: discounts().map(|d| (d.code.clone(), d)).into(),
        emails: Vec::new(),
        time: at(0),
    };
    for n in 0..ORDERS {
        let (order, history) = order(n, &world, &mut dice);
        world.time = order.created_at;
        world.histories.insert(order.id.clone(), history);
        world.orders.insert(order.id.clone(), order);
    }
    world
}

fn customer(n: usize, dice: &mut Dice) -> Customer {
    let first = FIRST[n % FIRST.len()];
    // The second round through the first names gets other last names, so that all 40 differ.
    let last = LAST[(n * 3 + n / FIRST.len()) % LAST.len()];
    let (city, country) = PLACES[dice.below(PLACES.len())];
    Customer {
        id: format!("cus_{:04}", n + 1),
        name: format!("{first} {last}"),
        email: format!("{}.{}@example.com", first.to_lowercase(), last.to_lowercase()),
        phone: (!n.is_multiple_of(4)).then(|| format!("+1-555-01{:02}", n)),
        city: city.to_owned(),
        country: country.to_owned(),
        tier: [Tier::Bronze, Tier::Bronze, Tier::Silver, Tier::Gold][dice.below(4)],
        created_at: at(-(dice.below(500) as i64) * 24 * 60),
    }
}

fn products(dice: &mut Dice) -> impl Iterator<Item = Product> {
    PRODUCTS.iter().flat_map(|(category, prefix, names)| {
        names
            .iter()
            .enumerate()
            .map(|(n, name)| Product {
                sku: format!("{prefix}-{:03}", n + 1),
                name: (*name).to_owned(),
                category: *category,
                price_cents: 490 + 500 * dice.below(18) as Cents,
                stock: dice.below(60) as u32,
                reserved: 0,
            })
            .collect::<Vec<_>>()
    })
}

fn discounts() -> [Discount; 4] {
    let discount = |code: &str, kind, value, minimum_cents, uses, max_uses| Discount {
        code: code.to_owned(),
        kind,
        value,
        minimum_cents,
        uses,
        max_uses,
    };
    [
        discount("WELCOME10", DiscountKind::Percent, 10, 0, 12, 1_000),
        discount("SPRING20", DiscountKind::Percent, 20, 5_000, 3, 100),
        discount("FIVER", DiscountKind::Fixed, 500, 2_500, 40, 500),
        discount("SOLDOUT50", DiscountKind::Percent, 50, 0, 5, 5),
    ]
}

fn order(n: usize, world: &World, dice: &mut Dice) -> (Order, Vec<OrderEvent>) {
    let customer_id = format!("cus_{:04}", dice.below(CUSTOMERS) + 1);
    let skus: Vec<&Product> = world.products.values().collect();
    let lines: Vec<OrderLine> = (0..=dice.below(3))
        .map(|_| {
            let product = skus[dice.below(skus.len())];
            OrderLine {
                sku: product.sku.clone(),
                name: product.name.clone(),
                quantity: 1 + dice.below(3) as u32,
                unit_price_cents: product.price_cents,
            }
        })
        .collect();
    let subtotal: Cents = lines.iter().map(|l| l.unit_price_cents * i64::from(l.quantity)).sum();
    let created_at = at(n as i64 * 36 * 60 + dice.below(600) as i64);
    let path = path(dice.below(12));
    let status = *path.last().unwrap_or(&OrderStatus::Pending);
    let history = path
        .iter()
        .enumerate()
        .map(|(step, &status)| OrderEvent {
            at: created_at + TimeDelta::hours(step as i64 * 20),
            status,
            note: format!("order {}", status.name()),
        })
        .collect();
    let order = Order {
        id: format!("ord_{}", 1001 + n),
        customer_id,
        status,
        lines,
        subtotal_cents: subtotal,
        discount_code: None,
        discount_cents: 0,
        total_cents: subtotal,
        refunded_cents: if status == OrderStatus::Refunded { subtotal } else { 0 },
        created_at,
    };
    (order, history)
}

/// The states an order went through; most are delivered.
fn path(draw: usize) -> &'static [OrderStatus] {
    use OrderStatus::{Cancelled, Delivered, Paid, Pending, Refunded, Shipped};
    match draw {
        0 => &[Pending],
        1 | 2 => &[Pending, Paid],
        3 | 4 => &[Pending, Paid, Shipped],
        5 => &[Pending, Cancelled],
        6 => &[Pending, Paid, Shipped, Delivered, Refunded],
        _ => &[Pending, Paid, Shipped, Delivered],
    }
}

fn at(minutes: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(OPENING + minutes * 60, 0).unwrap_or_default()
}

/// A linear congruential generator: the same numbers on every machine and in every version of any library.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // The upper bits: the lower ones of such a generator repeat quickly.
        ((self.0 >> 33) % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_start_finds_the_same_world() {
        let (one, two) = (world(), world());
        let text = |w: &World| serde_json::to_string(&(&w.customers, &w.products, &w.orders)).expect("JSON");
        assert_eq!(text(&one), text(&two));
        assert_eq!((one.customers.len(), one.products.len(), one.orders.len()), (40, 30, 120));
    }

    #[test]
    fn addresses_are_unique_and_ada_is_the_first() {
        let world = world();
        let addresses: BTreeSet<_> = world.customers.values().map(|c| &c.email).collect();
        assert_eq!(addresses.len(), 40);
        assert_eq!(world.customers["cus_0001"].email, "ada.adler@example.com");
        assert!(world.orders.values().any(|order| order.customer_id == "cus_0001"));
    }
}
