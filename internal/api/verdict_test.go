package api

import "testing"

// TestMachineVerdict says of each rule what is in the way.
func TestMachineVerdict(t *testing.T) {
	for want, v := range map[string]MachineVerdict{
		"m: can take it now":                                   {OK: true},
		"m: draining: new kernel":                              {Rule: "available", Wanted: "a machine that is up", Actual: "draining: new kernel"},
		"m: the build is not to use this one again":            {Rule: "skip", Wanted: "another machine", Actual: "the build is not to use this one again"},
		"m: no free slot: 2 of 2 taken":                        {Rule: "slots", Wanted: "a free slot", Actual: "2 of 2 taken"},
		"m: load 1.00 per core, want load below 0.80 per core": {Rule: "load", Wanted: "load below 0.80 per core", Actual: "load 1.00 per core"},
		"m: disk: 499 B free, want 500 B left free":            {Rule: "disk", Wanted: "500 B left free", Actual: "499 B free"},
		"m: features: none; the build needs gpu":               {Rule: "features", Wanted: "gpu", Actual: "none"},
		"m: takes only a build that requires kvm, and this one requires none": {
			Rule: "mandatory-features", Wanted: "a build that requires kvm", Actual: "requires none",
		},
	} {
		if v.Machine = "m"; v.String() != want {
			t.Errorf("got %q, want %q", v.String(), want)
		}
	}
}
