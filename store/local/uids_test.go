package local

import "testing"

// TestUserPool has two processes' pools, one after another out of the same folder.
func TestUserPool(t *testing.T) {
	folder := t.TempDir()
	var one, two userPool
	take := func(p *userPool) uint32 {
		t.Helper()
		uid, err := p.take(folder, 4_000_000_000)
		if err != nil {
			t.Fatal(err)
		}
		return uid
	}
	a, b, c := take(&one), take(&two), take(&one)
	if a == b || b == c || a == c {
		t.Errorf("users %d, %d and %d", a, b, c)
	}
	one.giveBack(a)
	if got := take(&one); got != a {
		t.Errorf("user %d, want %d again", got, a)
	}
	if err := one.close(); err != nil {
		t.Fatal(err)
	}
	if got := take(&two); got != a {
		t.Errorf("user %d, want %d of a process that ended", got, a)
	}
	if uid, err := new(userPool).take(folder, 0); err != nil || uid == 0 {
		t.Errorf("user %d, who is root or was refused: %v", uid, err)
	}
	if err := two.close(); err != nil {
		t.Fatal(err)
	}
}
