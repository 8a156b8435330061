package coordinator

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/peer"
	"lighter/machines"
)

func TestOptionsFor(t *testing.T) {
	limits := machines.Machine{Timeout: time.Hour, MaxSilentTime: time.Minute}
	for _, tt := range []struct {
		name     string
		machine  machines.Machine
		requests []api.Request
		want     agentapi.BuildRequest
	}{
		{"nothing", machines.Machine{}, []api.Request{{}}, agentapi.BuildRequest{}},
		{"the machine's", limits, []api.Request{{}}, agentapi.BuildRequest{Timeout: 3600, MaxSilentTime: 60}},
		{"less is asked for", limits, []api.Request{{Timeout: 60, MaxSilentTime: 30}}, agentapi.BuildRequest{Timeout: 60, MaxSilentTime: 30}},
		{"more is asked for", limits, []api.Request{{Timeout: 7200, MaxSilentTime: 61}}, agentapi.BuildRequest{Timeout: 3600, MaxSilentTime: 60}},
		{"only asked for", machines.Machine{}, []api.Request{{Timeout: 7200}}, agentapi.BuildRequest{Timeout: 7200}},
		{"two builds", limits, []api.Request{{Timeout: 60}, {Timeout: 120, KeepFailed: true}}, agentapi.BuildRequest{Timeout: 120, MaxSilentTime: 60, KeepFailed: true}},
		{"one without limit", limits, []api.Request{{Timeout: 60}, {}}, agentapi.BuildRequest{Timeout: 3600, MaxSilentTime: 60}},
		{
			"the rest",
			machines.Machine{BuildCores: 3, SandboxPaths: []string{"/x"}, SubstituteURLs: []string{"https://s.example"}},
			[]api.Request{{}},
			agentapi.BuildRequest{Cores: 3, SandboxPaths: []string{"/x"}, SubstituteURLs: []string{"https://s.example"}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := &machine{Machine: tt.machine}
			var work task
			for _, r := range tt.requests {
				work.builds = append(work.builds, &liveBuild{Build: api.Build{Request: r}})
			}
			if diff := cmp.Diff(tt.want, m.optionsFor(&work)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestOptionsForChecks shows that guix-daemon is told to keep what it makes, and that no
// other store is, which would keep the folders of builds that fail.
func TestOptionsForChecks(t *testing.T) {
	work := task{check: &liveCheck{build: &liveBuild{Build: api.Build{Request: api.Request{Timeout: 60}}}}}
	for kind, keep := range map[string]bool{machines.StoreDaemon: true, machines.StoreLocal: false} {
		m := machine{host: &host{peer: &peer.Peer{}}}
		m.peer.SetStoreKind(kind)
		want := agentapi.BuildRequest{Check: true, KeepFailed: keep, Timeout: 60}
		if diff := cmp.Diff(want, m.optionsFor(&work)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", kind, diff)
		}
	}
}
