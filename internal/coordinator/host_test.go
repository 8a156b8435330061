package coordinator

import (
	"testing"
	"testing/synctest"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/peer"
	"lighter/machines"
	"lighter/store"
)

// oneAgent has one agent answer everywhere.
func (f *farm) oneAgent() {
	f.agents["one"].set(func(a *fakeAgent) { a.info = func(m *agentapi.Machine) { m.ID = "the agent of one" } })
	f.config.newAgent = func(machines.Machine) peer.Agent { return f.agents["one"] }
}

// TestHostTakenUp has builds placed through each of two entries of one host, kills the coordinator,
// or stops it, and changes the file meanwhile. Both builds go on, each in its first attempt.
func TestHostTakenUp(t *testing.T) {
	for _, address := range []string{"one", "192.0.2.1"} {
		for _, end := range []struct {
			name string
			stop func(f *farm)
		}{{"killed", (*farm).crash}, {"stopped", (*farm).shutDown}} {
			for _, file := range []struct {
				name   string
				change func(list []machines.Machine) []machines.Machine
			}{
				{"same", func(list []machines.Machine) []machines.Machine { return list }},
				{"first removed", func(list []machines.Machine) []machines.Machine { return list[1:] }},
				{"second removed", func(list []machines.Machine) []machines.Machine { return list[:1] }},
				{"renamed", func(list []machines.Machine) []machines.Machine {
					renamed := list[1]
					renamed.Name = "another"
					return []machines.Machine{list[0], renamed}
				}},
			} {
				t.Run(address+", "+end.name+", "+file.name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						f := unstarted(t, "one")
						second := f.config.Machines[0]
						second.Name, second.Host = "two", address
						f.config.Machines = append(f.config.Machines, second)
						f.oneAgent()
						f.start()
						t.Cleanup(func() { f.shutDown() })
						var drvs []store.Path
						var ids []string
						for _, name := range []string{"one", "two"} {
							drv := f.drv("on-"+name, "hold")
							drvs = append(drvs, drv)
							ids = append(ids, f.request(api.Request{Derivation: drv, Skip: []string{map[string]string{"one": "two", "two": "one"}[name]}})...)
						}
						for i, id := range ids {
							if b := f.awaitState(id, api.Building); b.Machine != []string{"one", "two"}[i] {
								t.Fatalf("build %d is on %s", i, b.Machine)
							}
						}
						end.stop(f)
						f.config.Machines = file.change(f.config.Machines)
						f.start()
						f.until("both are taken up", func() bool {
							n := 0
							if err := f.c.do(t.Context(), func(l *loop) {
								for _, h := range l.hosts {
									n += len(h.attempts)
								}
							}); err != nil {
								t.Fatal(err)
							}
							return n == 2
						})
						f.agents["one"].release("on-one")
						f.agents["one"].release("on-two")
						for i, id := range ids {
							if b := f.awaitState(id, api.Succeeded); file.name == "same" && b.Machine != []string{"one", "two"}[i] {
								t.Errorf("build %d ends on %s", i, b.Machine)
							} else if b.Attempt != 1 {
								t.Errorf("build %d succeeded in attempt %d:\n%s", i, b.Attempt, f.history(id))
							}
							if n := f.agents["one"].count(drvs[i].Name()); n > 1 {
								t.Errorf("it was built %d times", n)
							}
						}
						f.idle()
					})
				})
			}
		}
	}
}
