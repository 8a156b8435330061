package local

import (
	"bytes"
	"os"
	"runtime"
	"slices"
	"testing"
)

// TestRunsI386 asks the kernel by the program, and another one that can't run.
func TestRunsI386(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the program is one of x86")
	}
	_, err := os.Stat("/lib/ld-linux.so.2")
	if got := runs(i386Program); !got && err == nil {
		t.Error("this machine has 32-bit programs, and is said not to run them")
	}
	if got, want := slices.Contains(machineSystems(), "i686-linux"), runs(i386Program); got != want {
		t.Errorf("the machine builds for i686-linux: %t, and runs such programs: %t", got, want)
	}
	foreign := bytes.Clone(i386Program)
	foreign[18] = 0xf7 // the machine in the ELF header
	if runs(foreign) {
		t.Error("a program for another machine runs")
	}
	broken := bytes.Clone(i386Program)
	broken[0x54] = 0xf4 // hlt
	if runs(broken) {
		t.Error("a program that is killed runs")
	}
}
