package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lighter/internal/api"
)

// TestHostKilled has two entries of one account, under two of the computer's names and for two
// systems, and kills the coordinator with SIGKILL while a build goes on through each. Both succeed in
// their first attempt, in the one agent that is there.
func TestHostKilled(t *testing.T) {
	f := newFarm(t)
	if f.system != "x86_64-linux" {
		t.Skip("the builds are for x86_64-linux and i686-linux")
	}
	gate := filepath.Join(f.dir, "gate")
	if err := os.Mkdir(gate, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(f.dir, "config", "machines.toml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	m0, _, _ := strings.Cut(string(text)[1:], "[[machine]]")
	m0 = strings.Replace("["+m0, `"/bin"`, `"/gate=`+gate+`", "/bin"`, 1)
	host, _, err := net.SplitHostPort(f.sshd[0].Addr)
	if err != nil || host != "127.0.0.1" {
		t.Fatalf("sshd is at %s, %v", f.sshd[0].Addr, err)
	}
	second := strings.NewReplacer(`"m0"`, `"m0-i686"`, `"127.0.0.1"`, `"localhost"`, "x86_64", "i686").Replace(m0)
	f.write("config/machines.toml", []byte(m0+second))
	f.start()

	var ids []string
	for _, f.system = range []string{"x86_64-linux", "i686-linux"} {
		drv := f.derive("on-"+f.system, "until [ -e /gate/open ]; do sleep 0.1; done; echo $$ > $out")
		id, err := f.submit(t.Context(), drv)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	through := []string{"m0", "m0-i686"}
	for i, id := range ids {
		if b := f.awaitBuild(id, api.Building); b.Machine != through[i] {
			t.Errorf("build %d is on %s", i, b.Machine)
		}
	}
	f.kill()
	f.start()
	f.awaitOneHost()
	if n := len(f.agents(0)); n != 1 {
		t.Errorf("%d agents", n)
	}
	f.write("gate/open", nil)
	for i, id := range ids {
		b := f.awaitBuild(id, api.Succeeded)
		if b.Attempt != 1 || b.Machine != through[i] {
			t.Errorf("build %d: attempt %d, on %s", i, b.Attempt, b.Machine)
		}
		f.run("store", "path", string(b.OutputPaths["out"]))
	}
	if n := len(f.agents(0)); n != 1 {
		t.Errorf("%d agents", n)
	}
	f.noneLeft()
}

// awaitOneHost waits until all machines are up, and known to be entries of one host.
func (f *farm) awaitOneHost() {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 2*time.Minute)
	defer cancel()
	for {
		list, err := f.client.Machines(ctx)
		if err != nil {
			f.t.Fatal(err)
		}
		apart := func(m api.MachineStatus) bool { return m.State != api.MachineUp || m.Host != list[0].Name }
		if !slices.ContainsFunc(list, apart) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}
