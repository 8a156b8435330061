package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"lighter/internal/human"
)

// verified counts the signatures that one store has verified, by the fingerprint of
// the key that made them.
type verified map[string]int

// checkSignatures counts, in the logs of the coordinator and of the machines, the
// signatures that were verified before items became visible, and checks that all of
// them were made by keys of this demo and that nothing came in without. Then every
// item is hashed again.
func (d *demo) checkSignatures(ctx context.Context) error {
	keys, err := d.keys(ctx)
	if err != nil {
		return err
	}
	home, err := d.verifiedBy("coordinator")
	if err != nil {
		return err
	}
	var fetched []string
	total := 0
	for fingerprint, n := range home {
		if keys[fingerprint] == "" || keys[fingerprint] == "head" {
			return fmt.Errorf("the head took %d items signed with %s, which is no machine's key", n, fingerprint)
		}
		total += n
	}
	for _, s := range specs {
		for fingerprint, n := range home {
			if keys[fingerprint] == s.name {
				fetched = append(fetched, fmt.Sprintf("  %s from %-6s signed with %s", padded(n), s.name, fingerprint))
			}
		}
	}
	if total == 0 {
		return fmt.Errorf("nothing that came home was checked")
	}
	sent := 0
	for _, s := range specs {
		there, err := d.verifiedBy(s.name)
		if err != nil {
			return err
		}
		for fingerprint, n := range there {
			if keys[fingerprint] != "head" {
				return fmt.Errorf("%s took %d items signed with %s, which is not the head's key", s.name, n, fingerprint)
			}
			sent += n
		}
	}
	if _, err := d.output(ctx, "store", "verify", "--check-contents"); err != nil {
		return err
	}
	d.say("\nSignatures verified before anything became visible: %s that came home", human.Count(total, "item"))
	d.say("%s\nand %s that went to machines, signed with the head's key.", strings.Join(fetched, "\n"), human.Count(sent, "item"))
	d.say("All items of the head's store were hashed again, and are as they were signed.")
	return nil
}

func padded(n int) string { return fmt.Sprintf("%3d", n) }

// keys returns whose key each fingerprint is.
func (d *demo) keys(ctx context.Context) (map[string]string, error) {
	owners := make(map[string]string)
	head, err := d.output(ctx, "key", "show", "--fingerprint")
	if err != nil {
		return nil, err
	}
	owners[head] = "head"
	for _, s := range specs {
		fingerprint, err := d.output(ctx, "key", "show", "--fingerprint", filepath.Join(d.folder, s.name, "signing-key.pub"))
		if err != nil {
			return nil, err
		}
		owners[fingerprint] = s.name
	}
	return owners, nil
}

// maxLogLine bounds a line of a log, in bytes.
const maxLogLine = 1 << 20

// verifiedBy reads a program's log.
func (d *demo) verifiedBy(name string) (verified, error) {
	f, err := os.Open(filepath.Join(d.folder, name+".log"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	count := make(verified)
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxLogLine)
	for lines.Scan() {
		var line struct {
			Message string `json:"msg"`
			Key     string `json:"key"`
		}
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Message == "signature verified" {
			count[line.Key]++
		}
	}
	return count, lines.Err()
}
