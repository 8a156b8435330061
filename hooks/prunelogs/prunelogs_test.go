package prunelogs

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
)

var text = strings.Repeat("a line of a log\n", 1000)

// folder makes logs: old and young, plain and compressed, and what is not a log.
func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"aa/1.1.log": text, "aa/2.1.log.gz": zipped.String(), "bb/young.1.log": text, "bb/young.2.log.gz": zipped.String(),
		"bb/notes.txt": "mine",
	} {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(name, "young") {
			old := time.Now().Add(-48 * time.Hour)
			if err := os.Chtimes(name, old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if entry.Type().IsRegular() {
			names = append(names, strings.TrimPrefix(name, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestPrune(t *testing.T) {
	for _, test := range []struct {
		compress, output string
		want             []string
	}{
		{"", "removed 2 logs with ", []string{"bb/notes.txt", "bb/young.1.log", "bb/young.2.log.gz"}},
		{"gzip", "compressed 1 logs with 16000 bytes to ", []string{"aa/1.1.log.gz", "aa/2.1.log.gz", "bb/notes.txt", "bb/young.1.log", "bb/young.2.log.gz"}},
		{"zstd", "compressed 2 logs with ", []string{"aa/1.1.log.zst", "aa/2.1.log.zst", "bb/notes.txt", "bb/young.1.log", "bb/young.2.log.gz"}},
	} {
		t.Run(test.compress, func(t *testing.T) {
			dir := folder(t)
			p, err := New(Options{Dir: dir, OlderThan: 24 * time.Hour, Compress: test.compress})
			if err != nil {
				t.Fatal(err)
			}
			output, err := p.Run(t.Context(), nil)
			if err != nil || !strings.HasPrefix(output, test.output) {
				t.Errorf("%q, %v", output, err)
			}
			if diff := cmp.Diff(test.want, files(t, dir)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if test.compress == "zstd" {
				checkZstd(t, filepath.Join(dir, "aa/1.1.log.zst"))
				checkZstd(t, filepath.Join(dir, "aa/2.1.log.zst"))
			}
			// The next call comes too early to do anything.
			old := filepath.Join(dir, "aa", "3.1.log")
			if err := errors.Join(os.WriteFile(old, nil, 0o644), os.Chtimes(old, time.Unix(1, 0), time.Unix(1, 0))); err != nil {
				t.Fatal(err)
			}
			if output, err := p.Run(t.Context(), nil); output != "" || err != nil {
				t.Errorf("the second time: %q, %v", output, err)
			}
			p.last = time.Now().Add(-2 * time.Hour)
			if output, err := p.Run(t.Context(), nil); output == "" || err != nil {
				t.Errorf("an hour later: %q, %v", output, err)
			}
			if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("an hour later: %v", err)
			}
		})
	}
}

// checkZstd: the log is whole, and as old as it was, so that it is removed some day.
func checkZstd(t *testing.T, name string) {
	t.Helper()
	packed, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	got, err := z.DecodeAll(packed, nil)
	if err != nil || string(got) != text {
		t.Errorf("%s: %d bytes, %v", name, len(got), err)
	}
	if info, err := os.Stat(name); err != nil || time.Since(info.ModTime()) < 40*time.Hour {
		t.Errorf("%s: %v %v", name, info, err)
	}
}

// TestBroken: a log that can't be read is named, and stays; the others are pruned.
func TestBroken(t *testing.T) {
	dir := folder(t)
	broken := filepath.Join(dir, "aa", "2.1.log.gz")
	info, err := os.Stat(broken)
	if err == nil {
		err = errors.Join(os.WriteFile(broken, []byte("no gzip"), 0o644), os.Chtimes(broken, info.ModTime(), info.ModTime()))
	}
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(Options{Dir: dir, OlderThan: 24 * time.Hour, Compress: "zstd"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Run(t.Context(), nil); err == nil || !strings.Contains(err.Error(), broken) {
		t.Errorf("got %v", err)
	}
	checkZstd(t, filepath.Join(dir, "aa/1.1.log.zst"))
	for _, name := range files(t, dir) {
		if strings.Contains(name, ".log-") || name == "aa/2.1.log.zst" {
			t.Errorf("%s is left", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Run(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func TestOptions(t *testing.T) {
	for want, o := range map[string]Options{
		"no folder":                              {OlderThan: MinAge},
		"older-than 1m0s: want at least 24h0m0s": {Dir: "x", OlderThan: time.Minute},
		`compress "xz": want gzip or zstd`:       {Dir: "x", OlderThan: MinAge, Compress: "xz"},
		"every -1s":                              {Dir: "x", OlderThan: MinAge, Every: -time.Second},
	} {
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
