// A static Go program that knows only /dev/kvm: goroutines that make virtual machines, run them and give them back.
package main

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"unsafe"
)

const (
	createVM            = 0xae01
	mmapSize            = 0xae04
	createVCPU          = 0xae41
	setUserMemoryRegion = 0x4020ae46
	run                 = 0xae80
	setRegs             = 0x4090ae82
	getSregs            = 0x8138ae83
	setSregs            = 0x4138ae84

	exitIO  = 2
	exitHLT = 5

	goroutines = 8
	rounds     = 6
	memory     = 0x10000
	code       = 0x1000
)

type region struct {
	slot, flags           uint32
	gpa, bytes, userspace uint64
}

// add al, bl; out 0x10, al; hlt
var program = []byte{0x00, 0xd8, 0xe6, 0x10, 0xf4}

func ioctl(fd int, request, argument uintptr) int {
	for {
		ret, _, err := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, argument)
		if err == 0 {
			return int(ret)
		}
		if err != syscall.EINTR { // the runtime preempts by signals
			panic(fmt.Sprintf("ioctl %x: %v", request, err))
		}
	}
}

func mustMmap(fd, bytes, flags int) []byte {
	found, err := syscall.Mmap(fd, 0, bytes, syscall.PROT_READ|syscall.PROT_WRITE, flags)
	if err != nil {
		panic(err)
	}
	return found
}

func add(kvm int, a, b uint64) byte {
	vm := ioctl(kvm, createVM, 0)
	ram := mustMmap(-1, memory, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	copy(ram[code:], program)
	slot := region{0, 0, 0, memory, uint64(uintptr(unsafe.Pointer(&ram[0])))}
	ioctl(vm, setUserMemoryRegion, uintptr(unsafe.Pointer(&slot)))
	vcpu := ioctl(vm, createVCPU, 0)
	state := mustMmap(vcpu, ioctl(kvm, mmapSize, 0), syscall.MAP_SHARED)
	var sregs [312]byte
	ioctl(vcpu, getSregs, uintptr(unsafe.Pointer(&sregs)))
	for i := 0; i < 8; i++ {
		sregs[i] = 0 // cs.base
	}
	sregs[12], sregs[13] = 0, 0 // cs.selector
	ioctl(vcpu, setSregs, uintptr(unsafe.Pointer(&sregs)))
	regs := [18]uint64{0: a, 1: b, 16: code, 17: 2} // rax, rbx, rip, rflags
	ioctl(vcpu, setRegs, uintptr(unsafe.Pointer(&regs)))
	ioctl(vcpu, run, 0)
	if reason := state[8]; reason != exitIO {
		panic(fmt.Sprintf("exit %d", reason))
	}
	sum := state[*(*uint64)(unsafe.Pointer(&state[40]))]
	ioctl(vcpu, run, 0)
	if reason := state[8]; reason != exitHLT {
		panic(fmt.Sprintf("exit %d", reason))
	}
	syscall.Munmap(state)
	syscall.Munmap(ram)
	syscall.Close(vcpu)
	syscall.Close(vm)
	return sum
}

func main() {
	runtime.GOMAXPROCS(4)
	kvm, err := syscall.Open(os.Args[1], syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		panic(err)
	}
	var all sync.WaitGroup
	for g := 0; g < goroutines; g++ {
		all.Add(1)
		go func(g int) {
			defer all.Done()
			for n := 0; n < rounds; n++ {
				if sum := add(kvm, uint64(g*10), uint64(n)); sum != byte(g*10+n) {
					panic(fmt.Sprintf("%d + %d is %d", g*10, n, sum))
				}
			}
		}(g)
	}
	all.Wait()
	fmt.Println("ok")
}
