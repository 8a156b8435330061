package display_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/internal/cli/display"
)

func TestComparisonLines(t *testing.T) {
	b := api.Build{State: api.Failed}
	b.Derivation = "/gnu/store/00000000000000000000000000000000-hello.drv"
	b.Results = []api.CheckResult{
		{Machine: api.TheHead, Hashes: map[string]string{"doc": "1", "out": "2"}},
		{Machine: "a", Hashes: map[string]string{"doc": "3"}, Differs: []string{"doc/x"}, BuildTime: 2},
		{Machine: "b", Failure: &api.Failure{Message: "exit 1\n", KeptIn: "/tmp/guix-build-hello.drv-0"}},
	}
	want := []string{
		"check     hello: what the head has and what 1 machine made differ",
		"  the head: doc is sha256:1", "  the head: out is sha256:2",
		"  a: doc is sha256:3 in 2.0s", "  a: out: it does not say what it made", "  a: differs: doc/x",
		"  b: failed: exit 1, kept in /tmp/guix-build-hello.drv-0",
	}
	if diff := cmp.Diff(want, display.ComparisonLines(&b)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestComparisonVerdict(t *testing.T) {
	hashes := func(machine, hash string) api.CheckResult {
		return api.CheckResult{Machine: machine, Hashes: map[string]string{"out": hash}}
	}
	failed := api.CheckResult{Machine: "gamma", Failure: &api.Failure{Message: "no"}}
	for name, c := range map[string]struct {
		results []api.CheckResult
		want    string
		differs bool
	}{
		"the same":           {[]api.CheckResult{hashes("a", "1"), hashes("b", "1")}, "2 machines made the same", false},
		"different":          {[]api.CheckResult{hashes("a", "1"), hashes("b", "2")}, "2 machines differ", true},
		"one failed":         {[]api.CheckResult{hashes("a", "1"), failed}, "nothing to compare", false},
		"as on the head":     {[]api.CheckResult{hashes(api.TheHead, "1"), hashes("b", "1"), hashes("c", "1")}, "2 machines made what the head has", false},
		"not as on the head": {[]api.CheckResult{hashes(api.TheHead, "1"), hashes("b", "2")}, "what the head has and what 1 machine made differ", true},
		"only the head":      {[]api.CheckResult{hashes(api.TheHead, "1"), failed}, "only the head has it", false},
		"files differ":       {[]api.CheckResult{hashes("a", "1"), {Machine: "b", Differs: []string{"x"}}}, "2 machines differ", true},
	} {
		b := api.Build{Results: c.results}
		text, differs := display.ComparisonLines(&b)[0], display.Differs(&b)
		if !strings.Contains(text, c.want) || differs != c.differs {
			t.Errorf("%s: %q, %v; want %q, %v", name, text, differs, c.want, c.differs)
		}
	}
}
