//! A static Rust program that knows only /dev/kvm: threads that make virtual machines, run them and give them back.

use std::fs::OpenOptions;
use std::io::Error;
use std::os::raw::{c_int, c_ulong, c_void};
use std::os::unix::io::{AsRawFd, FromRawFd, OwnedFd};

const CREATE_VM: c_ulong = 0xae01;
const MMAP_SIZE: c_ulong = 0xae04;
const CREATE_VCPU: c_ulong = 0xae41;
const SET_USER_MEMORY_REGION: c_ulong = 0x4020_ae46;
const RUN: c_ulong = 0xae80;
const SET_REGS: c_ulong = 0x4090_ae82;
const GET_SREGS: c_ulong = 0x8138_ae83;
const SET_SREGS: c_ulong = 0x4138_ae84;

const EXIT_IO: u32 = 2;
const EXIT_HLT: u32 = 5;

const THREADS: u8 = 8;
const ROUNDS: u8 = 6;
const MEMORY: usize = 0x10000;
const CODE: usize = 0x1000;

/// add al, bl; out 0x10, al; hlt
const PROGRAM: [u8; 5] = [0x00, 0xd8, 0xe6, 0x10, 0xf4];

extern "C" {
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn mmap(at: *mut c_void, bytes: usize, prot: c_int, flags: c_int, fd: c_int, offset: i64) -> *mut c_void;
    fn munmap(at: *mut c_void, bytes: usize) -> c_int;
}

#[repr(C)]
struct Region {
    slot: u32,
    flags: u32,
    gpa: u64,
    bytes: u64,
    userspace: u64,
}

fn call(fd: &impl AsRawFd, request: c_ulong, argument: *mut c_void) -> c_int {
    let ret = unsafe { ioctl(fd.as_raw_fd(), request, argument) };
    assert!(ret >= 0, "ioctl {:x}: {}", request, Error::last_os_error());
    ret
}

fn object(fd: &impl AsRawFd, request: c_ulong) -> OwnedFd {
    unsafe { OwnedFd::from_raw_fd(call(fd, request, std::ptr::null_mut())) }
}

/// Pages that are unmapped at the end.
struct Pages {
    at: *mut u8,
    bytes: usize,
}

impl Pages {
    fn new(bytes: usize, flags: c_int, fd: c_int) -> Pages {
        let at = unsafe { mmap(std::ptr::null_mut(), bytes, 3, flags, fd, 0) };
        assert!(at as isize != -1, "mmap: {}", Error::last_os_error());
        Pages { at: at as *mut u8, bytes }
    }

    fn read<T: Copy>(&self, offset: usize) -> T {
        unsafe { (self.at.add(offset) as *const T).read_volatile() }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        unsafe { munmap(self.at as *mut c_void, self.bytes) };
    }
}

fn add(kvm: &impl AsRawFd, a: u8, b: u8) -> u8 {
    let vm = object(kvm, CREATE_VM);
    let ram = Pages::new(MEMORY, 0x22, -1); // private, anonymous
    unsafe { ram.at.add(CODE).copy_from(PROGRAM.as_ptr(), PROGRAM.len()) };
    let mut slot = Region { slot: 0, flags: 0, gpa: 0, bytes: MEMORY as u64, userspace: ram.at as u64 };
    call(&vm, SET_USER_MEMORY_REGION, &mut slot as *mut _ as *mut c_void);
    let vcpu = object(&vm, CREATE_VCPU);
    let state = Pages::new(call(kvm, MMAP_SIZE, std::ptr::null_mut()) as usize, 1, vcpu.as_raw_fd());
    let mut sregs = [0u8; 312];
    call(&vcpu, GET_SREGS, sregs.as_mut_ptr() as *mut c_void);
    sregs[0..8].fill(0); // cs.base
    sregs[12..14].fill(0); // cs.selector
    call(&vcpu, SET_SREGS, sregs.as_mut_ptr() as *mut c_void);
    let mut regs = [0u64; 18];
    (regs[0], regs[1], regs[16], regs[17]) = (a.into(), b.into(), CODE as u64, 2); // rax, rbx, rip, rflags
    call(&vcpu, SET_REGS, regs.as_mut_ptr() as *mut c_void);
    call(&vcpu, RUN, std::ptr::null_mut());
    assert_eq!(state.read::<u32>(8), EXIT_IO);
    let sum = state.read::<u8>(state.read::<u64>(40) as usize);
    call(&vcpu, RUN, std::ptr::null_mut());
    assert_eq!(state.read::<u32>(8), EXIT_HLT);
    sum
}

fn main() {
    let path = std::env::args().nth(1).expect("a path");
    let kvm = OpenOptions::new().read(true).write(true).open(path).expect("open");
    std::thread::scope(|scope| {
        for t in 0..THREADS {
            let kvm = &kvm;
            scope.spawn(move || {
                for n in 0..ROUNDS {
                    assert_eq!(add(kvm, t * 10, n), t * 10 + n);
                }
            });
        }
    });
    println!("ok");
}
