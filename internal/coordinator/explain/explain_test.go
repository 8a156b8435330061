package explain

import (
	"testing"

	"lighter/internal/api"
	"lighter/scheduler"
)

func TestNever(t *testing.T) {
	idle := scheduler.Machine{Name: "m1", Systems: []string{"x86_64-linux"}, Slots: 1, FreeDisk: -1}
	foreign := func(machine, system string) string {
		if system == "armhf-linux" {
			return "it says otherwise"
		}
		return ""
	}
	for want, b := range map[string]scheduler.Build{
		"": {System: "x86_64-linux"},
		"no machine can take it: none builds for riscv64-linux":                    {System: "riscv64-linux"},
		"no machine can take it: m1: it says otherwise":                            {System: "armhf-linux"},
		"no machine can take it: m1: features: none; the build needs big-parallel": {System: "x86_64-linux", Features: []string{"big-parallel"}},
	} {
		if got := Never(&b, []scheduler.Machine{idle}, foreign); got != want {
			t.Errorf("%+v: got %q, want %q", b, got, want)
		}
	}
}

func TestMachines(t *testing.T) {
	b := scheduler.Build{System: "armhf-linux"}
	list, could := Machines(&b, []scheduler.Verdict{{Machine: "m1", Rule: scheduler.RuleSystem, Actual: "x86_64-linux"}, {Machine: "m2"}},
		func(string, string) string { return "it says otherwise" })
	if len(list) != 2 || list[0].Actual != "it says otherwise" || !list[1].OK || len(could) != 1 || could[0] != "m2" {
		t.Errorf("got %+v and %v", list, could)
	}
}

func TestWaits(t *testing.T) {
	kept := scheduler.Deferral{Build: &scheduler.Build{ID: "kept"}, Machine: "m9"}
	plan := scheduler.Plan{Deferrals: []scheduler.Deferral{kept}}
	queue := []api.Share{{Name: "alice"}, {Name: "bob"}}
	for _, test := range []struct{ id, share, want string }{
		{"kept", "alice", kept.Reason()},
		{"other", "bob", "it is the turn of alice on m1, m2"},
		{"other", "alice", "more urgent builds come first on m1, m2"},
	} {
		if got := Waits(test.id, test.share, []string{"m1", "m2"}, plan, queue); got != test.want {
			t.Errorf("%s of %s: got %q, want %q", test.id, test.share, got, test.want)
		}
	}
}
