package simulate

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"lighter/scheduler"
)

// Machine is one that builds.
type Machine struct {
	Name                        string
	Systems                     []string // none: all
	Features, MandatoryFeatures []string
	Slots                       int
	Speed                       float64 // true; 0 is 1
	// Configured is the speed that the machines file tells; 0 if that is the true one.
	Configured float64
	// Bandwidth to the machine in bytes/s (0: infinite), and from it (0: the same).
	Bandwidth, FetchBandwidth float64
	// Delay is added to each item's time on the link.
	Delay time.Duration
	// Overhead is for how long an attempt holds its slot besides its inputs' way and its builder: the
	// exchanges with the agent, what the store does before and after.
	Overhead time.Duration
	// Memory in bytes; 0 is without limit.
	Memory int64
	// HideMemory has the scheduler not know of it; builds are killed all the same.
	HideMemory bool
	Tokens     map[string]int
	// Away has times in which it can't be reached: what runs there is lost.
	Away []Interval
	// Fails is the part of attempts that end early by the machine's fault.
	Fails float64
	// Price for each hour that it is there.
	Price float64
	// Load is what others do there, per core. Cores, if not 0, has lighter's own builds add to the
	// load average, each BuildCores of them (0: one), and OverloadThreshold counts.
	Load              float64
	Cores             int
	BuildCores        float64
	OverloadThreshold float64
}

// Interval is a time, after the start, with its end.
type Interval struct{ From, To time.Duration }

func (m *Machine) check() error {
	switch {
	case m.Name == "":
		return fmt.Errorf("it needs a name")
	case m.Slots < 1 || m.Slots > 10000:
		return fmt.Errorf("%d slots: want 1 to 10000", m.Slots)
	case m.Speed < 0 || m.Configured < 0 || math.IsInf(m.Speed, 0) || math.IsNaN(m.Speed+m.Configured):
		return fmt.Errorf("speed %v: want more than 0", m.Speed)
	case m.Bandwidth < 0 || m.FetchBandwidth < 0 || math.IsNaN(m.Bandwidth+m.FetchBandwidth):
		return fmt.Errorf("bandwidth %v: want more than 0", m.Bandwidth)
	case m.Delay < 0 || m.Overhead < 0 || m.Memory < 0:
		return fmt.Errorf("delay, overhead and memory must not be negative")
	case !(m.Fails >= 0 && m.Fails < 1):
		return fmt.Errorf("%v of the attempts fail: want at least 0 and less than 1", m.Fails)
	}
	for i, a := range m.Away {
		if a.From < 0 || a.To <= a.From || i > 0 && a.From < m.Away[i-1].To {
			return fmt.Errorf("away from %s to %s: want times in order", a.From, a.To)
		}
	}
	return nil
}

func (m *Machine) speed() float64 {
	if m.Speed > 0 {
		return m.Speed
	}
	return 1
}

func (m *Machine) configured() float64 {
	if m.Configured > 0 {
		return m.Configured
	}
	return m.speed()
}

// bandwidths are those to and from the machine, never 0.
func (m *Machine) bandwidths() (to, from float64) {
	to = m.Bandwidth
	if to == 0 {
		to = math.Inf(1)
	}
	if from = m.FetchBandwidth; from == 0 {
		from = to
	}
	return to, from
}

// allSystems are what a machine builds for that says nothing else.
var allSystems = []string{"x86_64-linux", "i686-linux", "aarch64-linux", "armhf-linux", "powerpc64le-linux", "riscv64-linux"}

// static describes the machine as the machines file does.
func (m *Machine) static() scheduler.Machine {
	s := scheduler.Machine{
		Name: m.Name, Systems: m.Systems, Features: m.Features, MandatoryFeatures: m.MandatoryFeatures,
		Slots: m.Slots, Speed: m.configured(), FreeDisk: -1, Tokens: m.Tokens,
	}
	s.Bandwidth, s.FetchBandwidth = m.bandwidths()
	if len(s.Systems) == 0 {
		s.Systems = allSystems
	}
	if !m.HideMemory {
		s.Memory = m.Memory
	}
	return s
}

// takes reports whether builds like the node may run there.
func (m *Machine) takes(n *Node) bool {
	static := m.static()
	return scheduler.Possible(&scheduler.Build{System: n.System, Features: n.Features}, []scheduler.Machine{static})
}

func (m *Machine) hasTokens(tokens map[string]int) bool {
	for name, n := range tokens {
		if m.Tokens[name] < n {
			return false
		}
	}
	return true
}

// FleetA has four equal machines of 4 slots, at 100 MB/s.
func FleetA() []Machine {
	var fleet []Machine
	for i := range 4 {
		fleet = append(fleet, Machine{Name: "m" + strconv.Itoa(i+1), Slots: 4, Speed: 1, Bandwidth: 100e6})
	}
	return fleet
}

// FleetB has machines of speeds 1, 1, 2 and 4 with 8, 4, 4 and 2 slots, the slowest first, at 100 MB/s.
func FleetB() []Machine {
	return []Machine{
		{Name: "m1", Slots: 8, Speed: 1, Bandwidth: 100e6},
		{Name: "m2", Slots: 4, Speed: 1, Bandwidth: 100e6},
		{Name: "m3", Slots: 4, Speed: 2, Bandwidth: 100e6},
		{Name: "m4", Slots: 2, Speed: 4, Bandwidth: 100e6},
	}
}

// FleetC has twenty machines of speeds 0.5 to 3, with 2 to 16 slots, at 2 to 100 MB/s.
func FleetC() []Machine {
	var fleet []Machine
	for i, m := range []struct {
		slots      int
		speed, mbs float64
	}{
		{4, 0.5, 10},
		{8, 1, 100},
		{2, 1, 100},
		{4, 2, 50},
		{2, 3, 100},
		{4, 0.5, 100},
		{2, 1, 2},
		{16, 1, 100},
		{2, 1, 20},
		{4, 2, 100},
		{2, 1.5, 5},
		{4, 1, 100},
		{2, 0.5, 10},
		{2, 3, 50},
		{4, 1, 100},
		{2, 1, 10},
		{8, 2, 100},
		{2, 0.7, 2},
		{4, 1.5, 20},
		{2, 1, 100},
	} {
		fleet = append(fleet, Machine{Name: fmt.Sprintf("m%02d", i+1), Slots: m.slots, Speed: m.speed, Bandwidth: m.mbs * 1e6})
	}
	return fleet
}

// FleetD has one machine of speed 1 with 4 slots at 100 MB/s, and one of speed 0.1 with 4 slots at
// 2 MB/s.
func FleetD() []Machine {
	return []Machine{
		{Name: "near", Slots: 4, Speed: 1, Bandwidth: 100e6},
		{Name: "far", Slots: 4, Speed: 0.1, Bandwidth: 2e6},
	}
}

// Fleets are the four, by their letters.
func Fleets() map[string][]Machine {
	return map[string][]Machine{"a": FleetA(), "b": FleetB(), "c": FleetC(), "d": FleetD()}
}

// WithMemory gives each machine so many bytes of memory for each of its slots.
func WithMemory(fleet []Machine, perSlot int64) []Machine {
	fleet = slices.Clone(fleet)
	for i := range fleet {
		fleet[i].Memory = perSlot * int64(fleet[i].Slots)
	}
	return fleet
}
