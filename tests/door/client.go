// A client of /dev/kvm in Go, without cgo: eight goroutines, each with machines of its own.
package main

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"
)

const (
	kvmCreateVM            = 0xae01
	kvmGetVcpuMmapSize     = 0xae04
	kvmCreateVcpu          = 0xae41
	kvmSetUserMemoryRegion = 0x4020ae46
	kvmRun                 = 0xae80
	kvmGetSregs            = 0x8138ae83
	kvmSetSregs            = 0x4138ae84
	kvmSetRegs             = 0x4090ae82
	memoryBytes            = 1 << 16
	entry                  = 0x1000
)

type slot struct {
	slot, flags        uint32
	guest, bytes, host uint64
}

func ioctl(fd int, request uintptr, argument unsafe.Pointer) int {
	for {
		result, _, code := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, uintptr(argument))
		if code == 0 {
			return int(result)
		}
		if code != syscall.EINTR || request != kvmRun { // its run-time's signals end KVM_RUN
			panic(fmt.Sprintf("ioctl %#x: %v", request, code))
		}
	}
}

func mapped(fd int, bytes int, flags int) []byte {
	memory, err := syscall.Mmap(fd, 0, bytes, syscall.PROT_READ|syscall.PROT_WRITE, flags)
	if err != nil {
		panic(err)
	}
	return memory
}

// One machine: counts from n down to 0 in a loop, then tells 42 on port 0x10.
func count(kvm int, n uint16) {
	vm := ioctl(kvm, kvmCreateVM, nil)
	memory := mapped(-1, memoryBytes, syscall.MAP_PRIVATE|syscall.MAP_ANONYMOUS)
	// mov cx, n; 1: loop 1b; mov al, 42; out 0x10, al; hlt
	copy(memory[entry:], []byte{0xb9, byte(n), byte(n >> 8), 0xe2, 0xfe, 0xb0, 42, 0xe6, 0x10, 0xf4})
	region := slot{bytes: memoryBytes, host: uint64(uintptr(unsafe.Pointer(&memory[0])))}
	ioctl(vm, kvmSetUserMemoryRegion, unsafe.Pointer(&region))
	vcpu := ioctl(vm, kvmCreateVcpu, nil)
	run := mapped(vcpu, ioctl(kvm, kvmGetVcpuMmapSize, nil), syscall.MAP_SHARED)
	var sregs [39]uint64
	ioctl(vcpu, kvmGetSregs, unsafe.Pointer(&sregs))
	sregs[0] = 0              // cs.base
	sregs[1] &^= 0xffff << 32 // cs.selector
	ioctl(vcpu, kvmSetSregs, unsafe.Pointer(&sregs))
	regs := [18]uint64{16: entry, 17: 2}
	ioctl(vcpu, kvmSetRegs, unsafe.Pointer(&regs))
	ioctl(vcpu, kvmRun, nil)
	offset := *(*uint64)(unsafe.Pointer(&run[40]))
	if run[offset] != 42 {
		panic(run[offset])
	}
	syscall.Munmap(run)
	syscall.Munmap(memory)
	syscall.Close(vcpu)
	syscall.Close(vm)
}

func main() {
	file, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		panic(err)
	}
	done := make(chan bool)
	for i := 0; i < 8; i++ {
		go func() {
			for n := 0; n < 8; n++ {
				count(int(file.Fd()), 50000)
			}
			done <- true
		}()
	}
	for i := 0; i < 8; i++ {
		<-done
	}
	fmt.Println("ok")
}
