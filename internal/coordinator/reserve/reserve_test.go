package reserve

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/scheduler"
	"lighter/scheduler/estimate"
	"lighter/store"
)

const gib = 1 << 30

func machine(name string, memory int64, slots int) scheduler.Machine {
	return scheduler.Machine{Name: name, Systems: []string{"s"}, Memory: memory, Slots: slots, FreeDisk: -1}
}

func TestMachineMemory(t *testing.T) {
	for name, c := range map[string]struct{ entry, has, want int64 }{
		"the entry's":         {8 * gib, 64 * gib, 8 * gib},
		"not counted":         {-1, 64 * gib, 0},
		"less a sixteenth":    {0, 16 * gib, 15 * gib},
		"and no more than 4":  {0, 512 * gib, 508 * gib},
		"not known":           {0, 0, 0},
		"the entry's, unseen": {8 * gib, 0, 8 * gib},
	} {
		if got := MachineMemory(c.entry, c.has); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestReserve(t *testing.T) {
	small, big, free := machine("small", 4*gib, 4), machine("big", 64*gib, 8), machine("free", 0, 1)
	tiny, other := machine("tiny", 1*gib, 4), machine("other", 512*gib, 1)
	other.Systems = []string{"another"}
	for name, c := range map[string]struct {
		machines []scheduler.Machine
		unknown  string
		need     Memory
		skip     string
		want     int64
	}{
		"nothing known":                {[]scheduler.Machine{small, big}, "", Memory{}, "", Default},
		"no more than a slot's part":   {[]scheduler.Machine{tiny, big}, "", Memory{}, "", 256 << 20},
		"nor by its build system":      {[]scheduler.Machine{small, big}, "", Memory{3 * gib, Similar}, "", 1 * gib},
		"less by its build system":     {[]scheduler.Machine{small, big}, "", Memory{gib / 2, Similar}, "", gib / 2},
		"learnt":                       {[]scheduler.Machine{small, big}, "", Memory{9 * gib, Earlier}, "", 9 * gib},
		"learnt, more than there is":   {[]scheduler.Machine{small, big, other}, "", Memory{99 * gib, Earlier}, "", 64 * gib},
		"learnt, the large one barred": {[]scheduler.Machine{small, big}, "", Memory{9 * gib, Earlier}, "big", 4 * gib},
		"learnt, nothing counted":      {[]scheduler.Machine{small, free}, "", Memory{9 * gib, Earlier}, "", 9 * gib},
		"learnt, one not seen yet":     {[]scheduler.Machine{small, free}, "free", Memory{9 * gib, Earlier}, "", 4 * gib},
		"learnt, none seen yet":        {[]scheduler.Machine{free}, "free", Memory{9 * gib, Earlier}, "", 9 * gib},
		"killed":                       {[]scheduler.Machine{small, big}, "", Memory{99 * gib, Killed}, "", 64 * gib},
		"asked for":                    {[]scheduler.Machine{small, big}, "", Memory{99 * gib, Asked}, "", 99 * gib},
		"no machines":                  {nil, "", Memory{9 * gib, Giant}, "", 9 * gib},
		"no machines, nothing known":   {nil, "", Memory{}, "", Default},
	} {
		var f Farm
		f.Use(c.machines, map[string]bool{c.unknown: true})
		b := scheduler.Build{System: "s", Skip: []string{c.skip}}
		if f.Reserve(&b, Needs{Memory: c.need}); b.Memory != c.want {
			t.Errorf("%s: %d, want %d", name, b.Memory, c.want)
		}
	}
}

// TestMatters: what was cut may grow with another machine, what was not may be cut by it.
func TestMatters(t *testing.T) {
	var f Farm
	f.Use([]scheduler.Machine{machine("small", 4*gib, 4)}, nil)
	reserve := func(n int64) { f.Reserve(&scheduler.Build{System: "s"}, Needs{Memory: Memory{n, Earlier}}) }
	reserve(2 * gib)
	if f.Matters(3 * gib) {
		t.Error("nothing would change")
	}
	if !f.Matters(1 * gib) {
		t.Error("it may be cut")
	}
	if reserve(5 * gib); !f.Matters(8 * gib) {
		t.Error("it was cut")
	}
}

func TestTokens(t *testing.T) {
	counts, offers, neither := machine("counts", 0, 1), machine("offers", 0, 1), machine("neither", 0, 1)
	counts.Tokens = map[string]int{"gpu": 2, "licence": 1}
	counts.Features, offers.Features = []string{"gpu"}, []string{"gpu", "kvm"}
	var f Farm
	f.Use([]scheduler.Machine{counts, offers, neither}, nil)
	for _, c := range []struct {
		features []string
		asked    map[string]int
		want     map[string]int
		on       string
	}{
		{nil, nil, nil, "counts offers neither"},
		{[]string{"kvm"}, nil, nil, "offers"},
		{[]string{"gpu"}, nil, map[string]int{"gpu": 1}, "counts offers"},
		{[]string{"gpu"}, map[string]int{"gpu": 2}, map[string]int{"gpu": 2}, "counts offers"},
		{[]string{"gpu"}, map[string]int{"licence": 1}, map[string]int{"gpu": 1, "licence": 1}, "counts"},
		{nil, map[string]int{"gpu": 3}, map[string]int{"gpu": 3}, "offers"},
		{nil, map[string]int{"unheard-of": 1}, map[string]int{"unheard-of": 1}, ""},
	} {
		b := scheduler.Build{System: "s", Features: c.features}
		f.Reserve(&b, Needs{Tokens: c.asked})
		if diff := cmp.Diff(c.want, b.Tokens); diff != "" {
			t.Errorf("%v, %v: %s", c.features, c.asked, diff)
		}
		var on []string
		for i := range f.machines {
			if scheduler.Possible(&b, f.machines[i:i+1]) {
				on = append(on, f.machines[i].Name)
			}
		}
		if got := strings.Join(on, " "); got != c.on {
			t.Errorf("%v, %v: on %q, want %q", c.features, c.asked, got, c.on)
		}
	}
}

func TestOf(t *testing.T) {
	peak := estimate.Of(estimate.Key{Kind: estimate.Package, Name: "gcc", System: "s"}, []estimate.Sample{{System: "s", Memory: 2 * gib}}, nil, nil).Memory
	one := api.Request{Memory: 3 * gib, Tokens: map[string]int{"x": 1, "y": 5}}
	two := api.Request{Memory: 2 * gib, Tokens: map[string]int{"y": 2, "z": 3}}
	all := map[string]int{"x": 1, "y": 5, "z": 3}
	for name, c := range map[string]struct {
		requests []*api.Request
		peak     estimate.Dist[int64]
		killed   int64
		want     Needs
	}{
		"nothing":            {nil, estimate.Dist[int64]{}, 0, Needs{}},
		"learnt":             {[]*api.Request{{}}, peak, 0, Needs{Memory: Memory{peak.High(), Earlier}}},
		"asked for":          {[]*api.Request{&one, {}, &two}, peak, 0, Needs{Memory{3 * gib, Asked}, all}},
		"in another order":   {[]*api.Request{&two, &one}, peak, 2 * gib, Needs{Memory{3 * gib, Asked}, all}},
		"killed":             {[]*api.Request{{}}, peak, 16 * gib, Needs{Memory: Memory{16 * gib, Killed}}},
		"killed, asked less": {[]*api.Request{&one}, peak, 16 * gib, Needs{Memory{16 * gib, Killed}, one.Tokens}},
	} {
		if diff := cmp.Diff(c.want, Of(slices.Values(c.requests), c.peak, c.killed)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if len(one.Tokens) != 2 || len(two.Tokens) != 2 {
		t.Error("it changed a request")
	}
	if high := peak.High(); high < 5*gib/2 || high > 4*gib {
		t.Errorf("one build that needed 2 GiB has %d bytes reserved for the next one", high)
	}
}

func TestAfterKill(t *testing.T) {
	const message = "builder killed; its last lines were:\n\n  one\n"
	short := func(peak int64) *store.Measured {
		return &store.Measured{Method: store.MeasuredCgroup, KilledForMemory: true, PeakMemory: peak}
	}
	for name, c := range map[string]struct {
		used             *store.Measured
		reserved, memory int64
		slots            int
		most             int64
		want             Kill
		says             string
	}{
		"not measured":       {nil, gib, 64 * gib, 4, 128 * gib, Kill{false, 16 * gib, 32 * gib, true}, "; it had 16.0 GiB: --memory 32GiB reserves more"},
		"nor by the agent":   {&store.Measured{}, 20 * gib, 64 * gib, 4, 64 * gib, Kill{false, 20 * gib, 40 * gib, true}, "; it had 20.0 GiB: --memory 40GiB reserves more"},
		"measured":           {short(3*gib + 1), gib, 64 * gib, 4, 64 * gib, Kill{true, 3*gib + 1, 6*gib + 2, true}, "; it had 3.00 GiB: --memory 7GiB reserves more"},
		"less than twice":    {short(40 * gib), gib, 64 * gib, 4, 64 * gib, Kill{true, 40 * gib, 64 * gib, true}, "; it had 40.0 GiB: --memory 64GiB reserves more"},
		"all there is":       {short(64 * gib), gib, 64 * gib, 4, 64 * gib, Kill{true, 64 * gib, 64 * gib, false}, "; it had 64.0 GiB, and no machine that may build it has more: it needs a larger one"},
		"more than there is": {short(64 * gib), gib, 64 * gib, 4, 8 * gib, Kill{true, 64 * gib, 8 * gib, false}, "; it had 64.0 GiB, and no machine that may build it has more: it needs a larger one"},
		"not for memory":     {&store.Measured{Method: store.MeasuredCgroup, PeakMemory: gib}, gib, 64 * gib, 4, 64 * gib, Kill{}, ""},
		"not counted":        {short(3 * gib), gib, 0, 4, 0, Kill{Need: 6 * gib}, ""},
		"nothing known":      {nil, gib, 0, 0, 0, Kill{}, ""},
		"absurd":             {short(math.MaxInt64), 0, gib, 1, 0, Kill{true, math.MaxInt64, math.MaxInt64 - 1, false}, "; it had 8.00 EiB, and no machine that may build it has more: it needs a larger one"},
	} {
		k := AfterKill(c.used, c.reserved, c.memory, c.slots, c.most)
		if diff := cmp.Diff(c.want, k); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if got, want := k.Explain(message), strings.Replace(message, ";", c.says+";", 1); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
		if got := k.Explain("killed"); got != "killed"+c.says {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

func TestAwaited(t *testing.T) {
	mine, other := scheduler.Build{System: "s"}, scheduler.Build{System: "another"}
	for want, queue := range map[bool][]scheduler.Build{true: {other, mine}, false: {other}} {
		if got := Awaited(slices.Values(queue), machine("m", 0, 1)); got != want {
			t.Errorf("%d builds: %v", len(queue), got)
		}
	}
}

func TestCores(t *testing.T) {
	for _, c := range []struct{ cores, builds, want int }{{16, 1, 16}, {16, 3, 5}, {4, 16, 1}, {16, 0, 16}, {0, 4, 0}} {
		if got := Cores(c.cores, c.builds); got != c.want {
			t.Errorf("%d cores, %d builds: %d, want %d", c.cores, c.builds, got, c.want)
		}
	}
}

func TestWhy(t *testing.T) {
	for _, c := range []struct {
		need Memory
		want string
	}{
		{Memory{4 * gib, Earlier}, "4.00 GiB reserved: earlier builds of gcc needed up to that"},
		{Memory{8 * gib, Earlier}, "4.00 GiB reserved, the most that a machine has: earlier builds of gcc needed up to 8.00 GiB"},
		{Memory{6 * gib, Similar}, "4.00 GiB reserved, a slot's part: most builds like it need up to 6.00 GiB"},
		{Memory{4 * gib, Asked}, "4.00 GiB reserved: it was asked for"},
		{Memory{}, "4.00 GiB reserved: it was never measured"},
	} {
		if got := c.need.Why(4*gib, "gcc"); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}
