package head

import (
	"strings"
	"testing"

	"lighter/machines"
	"lighter/sshtransport"
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

func TestOpenSSH(t *testing.T) {
	m := machines.Machine{Host: "node7", User: "u", Port: 22, Transport: machines.TransportOpenSSH, SSHConfig: "~/cluster", ProxyJump: "login"}
	if got, want := *openSSH(&m, "/home/me"), (sshtransport.OpenSSH{Host: "node7", User: "u", ConfigFile: "/home/me/cluster", ProxyJump: "login"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	m.PortGiven = true
	if got := openSSH(&m, "/home/me").Port; got != 22 {
		t.Errorf("port %d", got)
	}
	m.Transport = machines.TransportNative
	if openSSH(&m, "/home/me") != nil {
		t.Error("ssh is used for lighter's own transport")
	}
}
