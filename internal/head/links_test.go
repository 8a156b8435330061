package head

import (
	"strings"
	"testing"

	"lighter/machines"
)

// One key takes all that is lighter's out of a home.
func TestAgentDirectory(t *testing.T) {
	for _, test := range []struct {
		m            machines.Machine
		upload, args string
	}{
		{machines.Machine{}, "", ""},
		{machines.Machine{AgentDirectory: "/scratch/me"}, "/scratch/me/agents", "--state /scratch/me"},
		{machines.Machine{AgentDirectory: "opt", StateDirectory: "/srv"}, "opt/agents", "--state /srv"},
		{machines.Machine{StateDirectory: "/srv"}, "", "--state /srv"},
	} {
		test.m.Store, test.m.DaemonSocket = machines.StoreAuto, machines.DefaultDaemonSocket
		if got := uploadDir(&test.m); got != test.upload {
			t.Errorf("%+v: uploaded to %q, want %q", test.m, got, test.upload)
		}
		if got := strings.Join(agentArgs(&test.m), " "); got != test.args {
			t.Errorf("%+v: arguments %q, want %q", test.m, got, test.args)
		}
	}
}
