package ledger

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"lighter/internal/api"
)

// TestKill kills a process that writes, again and again, on the real file system:
// what it said was durable is there, and the folder can be opened at once.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	acked := make(map[string]bool)
	for round := range 5 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWriteUntilKilled$")
		cmd.Env = append(os.Environ(), "LIGHTER_TEST_LEDGER="+dir, fmt.Sprint("LIGHTER_TEST_ROUND=", round))
		output, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(output)
		for n := 0; lines.Scan(); n++ {
			acked[lines.Text()] = true
			if n == 50*(round+1) {
				_ = cmd.Process.Kill()
			}
		}
		_ = cmd.Wait()
		l, err := Open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		check(t, l)
		there := make(map[string]bool)
		for _, id := range list(t, l, Filter{}) {
			there[id] = true
		}
		for id := range acked {
			if !there[id] {
				t.Errorf("round %d: build %s was acknowledged and is lost", round, id)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(acked) < 5*50 {
		t.Errorf("only %d builds were written", len(acked))
	}
}

// TestWriteUntilKilled is what TestKill runs in another process.
func TestWriteUntilKilled(t *testing.T) {
	dir := os.Getenv("LIGHTER_TEST_LEDGER")
	if dir == "" || os.Getenv("LIGHTER_TEST_ROUND") == "" {
		return
	}
	l, err := Open(dir, Options{memTable: smallTable})
	if err != nil {
		t.Fatal(err)
	}
	acknowledged := make(chan string)
	for writer := range 4 {
		go func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%s-%d-%d", os.Getenv("LIGHTER_TEST_ROUND"), writer, i)
				if _, err := l.Apply(context.Background(), []Change{{Build: build(id, api.Queued), Create: true}}, true); err != nil {
					panic(err)
				}
				acknowledged <- id
			}
		}()
	}
	for id := range acknowledged {
		fmt.Println(id)
	}
}
