package scheduler

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// TestHost has entries of one host, with slots of their own, and more builds than they can take: one
// is placed through an entry only while fewer builds than that entry's slots are on the host.
func TestHost(t *testing.T) {
	for seed := range uint64(500) {
		rng := rand.New(rand.NewPCG(seed, 1))
		systems := []string{"x86_64-linux", "i686-linux", "armhf-linux"}
		var busy []Running
		for range rng.IntN(4) {
			busy = append(busy, Running{Remaining: time.Duration(rng.IntN(100)) * time.Second})
		}
		var list []Machine
		slots := make(map[string]int)
		for i, system := range systems {
			m := Machine{Name: fmt.Sprint("m", i), Host: "m0", Systems: []string{system}, Slots: 1 + rng.IntN(5), Speed: 1, FreeDisk: -1, Busy: busy}
			slots[m.Name] = m.Slots
			list = append(list, m)
		}
		queue := NewQueue()
		most := 0
		for i := range 30 {
			queue.Push(Build{ID: fmt.Sprint(i), System: systems[rng.IntN(len(systems))], Seq: uint64(i)})
		}
		for _, n := range slots {
			most = max(most, n)
		}
		on := len(busy)
		for _, a := range Assign(Input{Now: time.Unix(0, 0), Machines: list, Queue: queue}).Assignments {
			if on >= slots[a.Machine] {
				t.Errorf("seed %d: %s gets a build, has %d slots, and %d builds are on its host", seed, a.Machine, slots[a.Machine], on)
			}
			on++
		}
		if on < most {
			t.Errorf("seed %d: %d builds are on the host, and an entry takes %d", seed, on, most)
		}
	}
}
