package ahead

import (
	"fmt"
	"testing"
	"time"

	"lighter/scheduler"
	"lighter/store"
)

func TestComing(t *testing.T) {
	const a, b, next, later = store.Path("/gnu/store/a.drv"), store.Path("/gnu/store/b.drv"), store.Path("/gnu/store/next.drv"), store.Path("/gnu/store/later.drv")
	now := time.Unix(1e9, 0)
	var c Coming
	live := map[store.Path]bool{a: true, b: true}
	want := func(list string) {
		t.Helper()
		got := ""
		for _, s := range c.Soon(now, time.Minute, func(p store.Path) bool { return live[p] }) {
			got += fmt.Sprintf("%s %s; ", s.Build.ID, s.Ready)
		}
		if got != list {
			t.Errorf("soon: %q, want %q", got, list)
		}
	}
	want("")
	c.Expect(next, &scheduler.Build{ID: "next"}, []store.Path{a, b})
	c.Expect(later, &scheduler.Build{ID: "later"}, []store.Path{b})
	want("") // nothing is on its way
	c.Leaves(a, now.Add(10*time.Second))
	want("")
	c.Leaves(b, now.Add(2*time.Minute))
	want("") // that takes too long
	now = now.Add(90 * time.Second)
	want("next 30.1s; later 30.1s; ")
	c.Lost(b)
	want("")
	c.Leaves(b, now.Add(time.Second))
	c.Arrived(a, now)
	delete(live, a)
	want("next 1.1s; later 1.1s; ")
	live[later] = true // it was asked for
	want("next 1.1s; ")
	c.Arrived(b, now)
	delete(live, b)
	now = now.Add(patience - 1)
	want("next 100ms; ")
	now = now.Add(1)
	want("") // guix-daemon has not asked

	live[a] = true
	c.Leaves(a, now)
	c.Expect(next, &scheduler.Build{ID: "next"}, []store.Path{a})
	delete(live, a) // canceled
	want("")

	live[a] = true
	for i := range 3 * maxExpected {
		c.Expect(store.Path(fmt.Sprint(i)), &scheduler.Build{ID: "some"}, []store.Path{a})
	}
	if len(c.next) != maxExpected {
		t.Errorf("%d are expected, want no more than %d", len(c.next), maxExpected)
	}
}
