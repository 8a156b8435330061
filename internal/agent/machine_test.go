package agent

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/agentapi"
	"lighter/internal/api"
)

// describeWith returns what an agent says of its machine with those files in /proc.
func describeWith(t *testing.T, files map[string]string, change func(*Options)) *agentapi.Machine {
	t.Helper()
	proc := t.TempDir()
	for name, content := range files {
		file := filepath.Join(proc, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	opts := Options{Store: newFakeStore(t), StateDir: t.TempDir(), procDir: proc}
	if change != nil {
		change(&opts)
	}
	a, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	return a.describe()
}

func TestMachineOfProc(t *testing.T) {
	m := describeWith(t, map[string]string{
		"loadavg": "0.52 0.58 0.59 1/1219 31415\n",
		"uptime":  "3601.25 7000.00\n",
		"meminfo": "MemTotal:       16384000 kB\nMemFree:         1000000 kB\nMemAvailable:    8192000 kB\n",
		"cpuinfo": "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC 7B13\n\nprocessor\t: 1\nmodel name\t: another\n",
		"pressure/cpu": "some avg10=12.34 avg60=1.00 avg300=0.10 total=123\n" +
			"full avg10=99.00 avg60=0.00 avg300=0.00 total=0\n",
		"pressure/memory": "full avg10=1.00 avg60=0.00 avg300=0.00 total=0\nsome avg10=0.00 avg60=5.00 avg300=0.00 total=0\n",
	}, nil)
	want := api.Hardware{CPU: "AMD EPYC 7B13", Cores: runtime.NumCPU(), Memory: 16384000 << 10, Kernel: m.Kernel}
	if diff := cmp.Diff(want, m.Hardware); diff != "" {
		t.Errorf("hardware (-want +got):\n%s", diff)
	}
	if m.Load != 0.52 || m.Uptime != 3601.25 || m.FreeMemory != 8192000<<10 || m.CPUPressure != 12.34 || m.MemoryPressure != 0 {
		t.Errorf("got load %v, uptime %v, memory %v, pressure %v and %v", m.Load, m.Uptime, m.FreeMemory, m.CPUPressure, m.MemoryPressure)
	}
	if m.FreeDisk <= 0 || m.BuildFreeDisk <= 0 || m.FreeInodes != m.BuildFreeInodes {
		t.Errorf("got disk %d and %d, inodes %d and %d", m.FreeDisk, m.BuildFreeDisk, m.FreeInodes, m.BuildFreeInodes)
	}
}

func TestMachineThatSaysNothing(t *testing.T) {
	m := describeWith(t, nil, func(o *Options) { o.BuildDir = filepath.Join(o.StateDir, "absent") })
	if m.CPUPressure >= 0 || m.MemoryPressure >= 0 || m.BuildFreeDisk >= 0 || m.BuildFreeInodes >= 0 {
		t.Errorf("what is not known is not negative: %+v", m)
	}
	if m.FreeDisk <= 0 || m.Hardware.CPU != "" || m.Hardware.Memory != 0 {
		t.Errorf("got %+v", m)
	}
}

func TestPressure(t *testing.T) {
	for text, want := range map[string]float64{
		"some avg10=100.00 avg60=0\n": 100,
		"some avg10=0.00":             0,
		"some avg10=nan avg60=0":      -1,
		"some avg10=101 avg60=0":      -1,
		"some avg10=-5 avg60=0":       -1,
		"full avg10=3.00 avg60=0":     -1,
		"":                            -1,
	} {
		if got := pressure(text); got != want {
			t.Errorf("%q: got %v; want %v", text, got, want)
		}
	}
}

func TestCPUModel(t *testing.T) {
	for text, want := range map[string]string{
		"model name\t: Intel(R) Xeon(R)\n":                      "Intel(R) Xeon(R)",
		"processor : 0\ncpu\t\t: POWER9, altivec\nmodel : 8335": "POWER9, altivec",
		"uarch\t: sifive,u74-mc\n":                              "sifive,u74-mc",
		"CPU part : 0xd0c\n\nModel : Raspberry Pi 4 Model B\n":  "Raspberry Pi 4 Model B",
		"model name :\nmodel name : second":                     "second",
		"CPU implementer : 0x41":                                "",
		strings.Repeat("x", 100):                                "",
	} {
		if got := cpuModel(text); got != want {
			t.Errorf("%q: got %q; want %q", text, got, want)
		}
	}
}
