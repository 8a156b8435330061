package attic

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"lighter/internal/api"
)

// readAttic returns what an attic has, which must be whole.
func readAttic(t *testing.T, name string) (lines []leftBuild) {
	t.Helper()
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	z, err := zstd.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for d := json.NewDecoder(z); d.More(); {
		var line leftBuild
		if err := d.Decode(&line); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		lines = append(lines, line)
	}
	if _, err := z.Read(make([]byte, 1)); err == nil || err.Error() != "EOF" {
		t.Fatalf("%s: does not end well: %v", name, err)
	}
	return lines
}

func idsOf(lines []leftBuild) (ids []string) {
	for _, l := range lines {
		ids = append(ids, l.Build.ID)
	}
	return ids
}

func testAttic(dir string) *writer {
	return &writer{dir: filepath.Join(dir, folder), now: func() time.Time {
		return time.Date(2026, 5, 4, 3, 2, 1, 0, time.FixedZone("", 3600))
	}}
}

// fillAttic adds builds from a number to another, and syncs.
func fillAttic(t *testing.T, a *writer, from, to int) {
	t.Helper()
	addBuilds(t, a, from, to)
	if err := a.sync(); err != nil {
		t.Fatal(err)
	}
}

func addBuilds(t *testing.T, a *writer, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		b := &api.Build{Request: api.Request{ID: fmt.Sprint(n)}, State: api.Failed}
		if err := a.add(b, []api.Event{{Seq: uint64(n), Build: b.ID, Reason: strings.Repeat("because ", n%7)}}); err != nil {
			t.Fatal(err)
		}
	}
}

func names(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, folder))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestAttic(t *testing.T) {
	dir := t.TempDir()
	a := testAttic(dir)
	if err := a.sync(); err != nil {
		t.Fatal(err)
	}
	if size, err := a.finish(); size != 0 || err != nil || names(t, dir) != nil {
		t.Fatalf("empty: %d bytes, %v, %v", size, err, names(t, dir))
	}
	fillAttic(t, a, 0, 100)
	fillAttic(t, a, 100, 130)
	if got := names(t, dir); !slices.Equal(got, []string{"builds-20260504T020201Z.jsonl.zst.part"}) {
		t.Errorf("while it is written: %v", got)
	}
	addBuilds(t, a, 130, 140) // which are never synced, thus not removed
	size, err := a.finish()
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(a.name); err != nil || info.Size() != size {
		t.Errorf("%d bytes, but %v, %v", size, info, err)
	}
	lines := readAttic(t, a.name)
	if len(lines) != 130 || lines[129].Build.ID != "129" || lines[129].Build.State != api.Failed || lines[129].Events[0].Seq != 129 {
		t.Errorf("read %d builds, the last is %+v", len(lines), lines[len(lines)-1])
	}
	if _, err := a.finish(); err != nil {
		t.Error("finished twice:", err)
	}

	second := testAttic(dir) // in the same second
	fillAttic(t, second, 0, 1)
	third := testAttic(dir)
	addBuilds(t, third, 0, 1)
	for _, a := range []*writer{second, third} {
		if _, err := a.finish(); err != nil {
			t.Fatal(err)
		}
	}
	if got := names(t, dir); !slices.Equal(got, []string{"builds-20260504T020201Z-2.jsonl.zst", "builds-20260504T020201Z.jsonl.zst"}) {
		t.Errorf("got %v", got)
	}
}

// TestAtticAfterCrash cuts an attic at every length: all syncs before are whole.
func TestAtticAfterCrash(t *testing.T) {
	dir := t.TempDir()
	a := testAttic(dir)
	var synced []int64
	for n := range 3 {
		fillAttic(t, a, 10*n, 10*(n+1))
		synced = append(synced, a.synced)
	}
	if _, err := a.finish(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(a.name)
	if err != nil {
		t.Fatal(err)
	}
	cut, err := os.Create(filepath.Join(dir, "cut"))
	if err != nil {
		t.Fatal(err)
	}
	defer cut.Close()
	for size := range len(whole) + 1 {
		want := int64(0)
		for _, at := range synced {
			if at <= int64(size) {
				want = at
			}
		}
		if _, err := cut.WriteAt(whole[:size], 0); err != nil {
			t.Fatal(err)
		}
		if got, err := wholeFrames(cut); got != want || err != nil {
			t.Fatalf("of %d bytes %d are whole, want %d; %v", size, got, want, err)
		}
	}
	type leftover struct {
		name    string
		content []byte
		builds  int
	}
	spoilt := bytes.Clone(whole)
	spoilt[len(spoilt)-1] ^= 1 // of the checksum
	left := []leftover{
		{"nothing", nil, 0},
		{"all but a byte of the first", whole[:synced[0]-1], 0},
		{"the first", whole[:synced[0]], 10},
		{"the second and something of the third", whole[:synced[1]+5], 20},
		{"all", whole, 30},
		{"zeros behind it", append(bytes.Clone(whole), make([]byte, 1000)...), 30},
		{"something behind it", append(bytes.Clone(whole), "something else"...), 30},
		{"a whole block behind it is not of a known kind", append(bytes.Clone(whole), 0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0xff, 0xff, 0xff), 30},
		{"the last sync did not reach the disk", spoilt, 20},
	}
	for _, l := range left {
		for _, name := range names(t, dir) {
			if err := os.Remove(filepath.Join(dir, folder, name)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(a.name+partSuffix, l.content, 0o600); err != nil {
			t.Fatal(err)
		}
		finished, err := finishAll(a.dir)
		if err != nil {
			t.Fatalf("%s: %v", l.name, err)
		}
		if l.builds == 0 {
			if finished != nil || names(t, dir) != nil {
				t.Fatalf("%s: finished %v, there is %v", l.name, finished, names(t, dir))
			}
			continue
		}
		if !slices.Equal(finished, []string{a.name}) || len(names(t, dir)) != 1 {
			t.Fatalf("%s: finished %v, there is %v", l.name, finished, names(t, dir))
		}
		if got := readAttic(t, a.name); len(got) != l.builds {
			t.Fatalf("%s: %d builds, want %d", l.name, len(got), l.builds)
		}
	}
}

func TestFinishAtticsInAnOddFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), `[a]*\`)
	if names, err := finishAll(dir); names != nil || err != nil {
		t.Fatal(names, err)
	}
	a := testAttic(dir)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	fillAttic(t, a, 0, 3)
	if names, err := finishAll(a.dir); !slices.Equal(names, []string{a.name}) || err != nil {
		t.Fatal(names, err)
	}
	if err := a.file.Close(); err != nil {
		t.Fatal(err)
	}
	if ids := idsOf(readAttic(t, a.name)); !slices.Equal(ids, []string{"0", "1", "2"}) {
		t.Error(ids)
	}
}
