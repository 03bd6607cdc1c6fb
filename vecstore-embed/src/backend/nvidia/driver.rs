//! NVIDIA's driver: whether there is one, how new it is, and which cards it has.
//!
//! Asked through the driver's own library, which comes with the driver and with nothing else: no toolkit is
//! needed, and a machine without cards gives an answer too.

use std::ffi::{CStr, c_char, c_int, c_uint};

use bytemuck::Zeroable;
use libloading::{Library, Symbol};

use super::super::card::{Card, Driver, NoDriver};

/// The library that the driver installs.
pub(super) const LIBRARY: &str = "libcuda.so.1";

const INSTALL: &str = "install NVIDIA's driver on this machine (nvidia-smi then lists the cards); a \
                       container gets it from its host, if it is started with the host's cards";

/// What the numbers of errors mean that a driver begins with; for others there is the number.
fn meaning(code: c_int) -> (&'static str, &'static str) {
    match code {
        100 => (
            "the driver finds no card",
            "look at nvidia-smi, and at CUDA_VISIBLE_DEVICES; start a container with the cards of its host",
        ),
        34 => (
            "the library that programs are linked with, not the driver's own",
            "take the folder called stubs out of LD_LIBRARY_PATH",
        ),
        803 => (
            "a driver whose library and kernel module are of different versions",
            "restart the machine after an update of the driver; in a container, take a libcuda that fits it",
        ),
        804 => (
            "a driver library for newer cards or a newer kernel module than there are",
            "take the folder called compat out of LD_LIBRARY_PATH",
        ),
        _ => ("a driver that does not start", "look at nvidia-smi, and at the kernel's messages (dmesg)"),
    }
}

/// Asks the driver.
pub(in crate::backend) fn driver() -> Result<Driver, NoDriver> {
    // SAFETY: loading runs the initialisers of the driver's library, which the system's administrator
    // installed for every program that computes on a card.
    let library = unsafe { Library::new(LIBRARY) }.map_err(|error| {
        let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        NoDriver { found: format!("no driver: {cause}"), remedy: INSTALL }
    })?;
    let lacks = |_| NoDriver { found: format!("a {LIBRARY} that is not the driver's"), remedy: INSTALL };
    // SAFETY: names and signatures are those of NVIDIA's driver interface, which has kept them since CUDA 3.2
    // (the names with _v2 are those signatures).
    let calls = unsafe { Calls::of(&library) }.map_err(lacks)?;
    let begun = calls.init();
    if begun != 0 {
        let (what, remedy) = meaning(begun);
        return Err(NoDriver { found: format!("{what} (error {begun} of cuInit)"), remedy });
    }
    let (version, count) = (calls.version(), calls.count());
    let cards = (0..count).map_while(|number| calls.card(number)).collect();
    Ok(Driver { cuda: (version / 1000, version % 1000 / 10), cards })
}

/// What a call writes to where it is told; nothing where it fails.
fn told<T: Zeroable>(call: impl FnOnce(*mut T) -> c_int) -> Option<T> {
    let mut value = T::zeroed();
    (call(&raw mut value) == 0).then_some(value)
}

/// The entry points used here.
struct Calls<'a> {
    init: Symbol<'a, unsafe extern "C" fn(c_uint) -> c_int>,
    version: Symbol<'a, unsafe extern "C" fn(*mut c_int) -> c_int>,
    count: Symbol<'a, unsafe extern "C" fn(*mut c_int) -> c_int>,
    get: Symbol<'a, unsafe extern "C" fn(*mut c_int, c_int) -> c_int>,
    name: Symbol<'a, unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int>,
    memory: Symbol<'a, unsafe extern "C" fn(*mut usize, c_int) -> c_int>,
    attribute: Symbol<'a, unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int>,
}

impl<'a> Calls<'a> {
    /// # Safety
    /// `library` has to be NVIDIA's driver, or to give these names the same signatures.
    unsafe fn of(library: &'a Library) -> Result<Self, libloading::Error> {
        // SAFETY: as the caller promises.
        unsafe {
            Ok(Calls {
                init: library.get(b"cuInit")?,
                version: library.get(b"cuDriverGetVersion")?,
                count: library.get(b"cuDeviceGetCount")?,
                get: library.get(b"cuDeviceGet")?,
                name: library.get(b"cuDeviceGetName")?,
                memory: library.get(b"cuDeviceTotalMem_v2")?,
                attribute: library.get(b"cuDeviceGetAttribute")?,
            })
        }
    }

    fn init(&self) -> c_int {
        // SAFETY: takes flags, of which there are none.
        unsafe { (self.init)(0) }
    }

    fn version(&self) -> u32 {
        // SAFETY: writes one number to where it is told.
        told(|to| unsafe { (self.version)(to) })
            .and_then(|version: c_int| version.try_into().ok())
            .unwrap_or(0)
    }

    fn count(&self) -> c_int {
        // SAFETY: writes one number to where it is told.
        told(|to| unsafe { (self.count)(to) }).unwrap_or(0)
    }

    fn card(&self, number: c_int) -> Option<Card> {
        const LENGTH: usize = 256;
        const CAPABILITY: (c_int, c_int) = (75, 76);
        // SAFETY: writes one number to where it is told.
        let card = told(|to| unsafe { (self.get)(to, number) })?;
        // SAFETY: writes at most that many bytes, the last of them zero.
        let name = told(|to: *mut [u8; LENGTH]| unsafe { (self.name)(to.cast(), LENGTH as c_int, card) })?;
        // SAFETY: writes one number to where it is told.
        let memory: usize = told(|to| unsafe { (self.memory)(to, card) })?;
        let attribute = |which: c_int| {
            // SAFETY: writes one number to where it is told.
            told(|to| unsafe { (self.attribute)(to, which, card) })
                .and_then(|value: c_int| value.try_into().ok())
                .unwrap_or(0)
        };
        Some(Card {
            name: CStr::from_bytes_until_nul(&name).ok()?.to_string_lossy().into_owned(),
            memory: memory as u64,
            capability: (attribute(CAPABILITY.0), attribute(CAPABILITY.1)),
        })
    }
}
