// A client of /dev/kvm in Rust, of the standard library alone: four threads, each with machines of its own.

use std::ffi::c_void;
use std::fs::OpenOptions;
use std::io::{Error, Result};
use std::os::raw::{c_int, c_ulong};
use std::os::unix::io::AsRawFd;
use std::{ptr, thread};

extern "C" {
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn mmap(addr: *mut c_void, size: usize, prot: c_int, flags: c_int, fd: c_int, offset: i64) -> *mut c_void;
    fn munmap(addr: *mut c_void, size: usize) -> c_int;
    fn close(fd: c_int) -> c_int;
}

const KVM_CREATE_VM: c_ulong = 0xae01;
const KVM_GET_VCPU_MMAP_SIZE: c_ulong = 0xae04;
const KVM_CREATE_VCPU: c_ulong = 0xae41;
const KVM_SET_USER_MEMORY_REGION: c_ulong = 0x4020_ae46;
const KVM_RUN: c_ulong = 0xae80;
const KVM_GET_SREGS: c_ulong = 0x8138_ae83;
const KVM_SET_SREGS: c_ulong = 0x4138_ae84;
const KVM_SET_REGS: c_ulong = 0x4090_ae82;
const READ_WRITE: c_int = 3;
const SHARED: c_int = 1;
const PRIVATE_ANONYMOUS: c_int = 0x22;
const MEMORY: usize = 1 << 16;
const ENTRY: usize = 0x1000;

#[repr(C)]
struct Slot {
    slot: u32,
    flags: u32,
    guest: u64,
    bytes: u64,
    host: u64,
}

fn check(result: c_int) -> Result<c_int> {
    if result < 0 {
        Err(Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// One machine: adds two numbers, tells the sum on port 0x10.
fn add(kvm: c_int, a: u8, b: u8) -> Result<u8> {
    unsafe {
        let vm = check(ioctl(kvm, KVM_CREATE_VM, 0))?;
        let memory = mmap(ptr::null_mut(), MEMORY, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0) as *mut u8;
        let code = [0xb0, a, 0x04, b, 0xe6, 0x10, 0xf4]; // mov al, a; add al, b; out 0x10, al; hlt
        ptr::copy_nonoverlapping(code.as_ptr(), memory.add(ENTRY), code.len());
        let slot = Slot { slot: 0, flags: 0, guest: 0, bytes: MEMORY as u64, host: memory as u64 };
        check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot))?;
        let vcpu = check(ioctl(vm, KVM_CREATE_VCPU, 0))?;
        let size = check(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0))? as usize;
        let run = mmap(ptr::null_mut(), size, READ_WRITE, SHARED, vcpu, 0) as *mut u8;
        let mut sregs = [0u64; 39];
        check(ioctl(vcpu, KVM_GET_SREGS, &mut sregs))?;
        sregs[0] = 0; // cs.base
        sregs[1] &= !(0xffff << 32); // cs.selector
        check(ioctl(vcpu, KVM_SET_SREGS, &sregs))?;
        let mut regs = [0u64; 18];
        regs[16] = ENTRY as u64;
        regs[17] = 2;
        check(ioctl(vcpu, KVM_SET_REGS, &regs))?;
        check(ioctl(vcpu, KVM_RUN, 0))?;
        let offset = *(run.add(40) as *const u64) as usize;
        let sum = *run.add(offset);
        munmap(run as *mut c_void, size);
        munmap(memory as *mut c_void, MEMORY);
        close(vcpu);
        close(vm);
        Ok(sum)
    }
}

fn main() -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/kvm")?;
    let kvm = file.as_raw_fd();
    let threads: Vec<_> = (0..4u8)
        .map(|me| thread::spawn(move || (0..8u8).all(|n| add(kvm, me, n).unwrap() == me + n)))
        .collect();
    for one in threads {
        assert!(one.join().unwrap());
    }
    println!("ok");
    Ok(())
}
