package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"lighter/internal/human"
	"lighter/internal/ledger"
	"lighter/internal/quantity"
)

// bigLedger is the size in bytes from which on pruning is worth a note.
const bigLedger = 10 << 30

// What to do when something is wrong with the ledger. Both need it closed.
const (
	dropUnusable = "stop the coordinator, as its user: lighter doctor --drop-unusable; what is dropped is written to a file first"
	acceptLoss   = "put the missing files back; or, to go on without what is missing, as the coordinator's user: lighter doctor --accept-loss"
)

func (d *Doctor) checkLedger(ctx context.Context) {
	const check = "ledger"
	size, err := folderSize(ctx, d.folders.Ledger())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.note(check, "the coordinator makes it when it is first started", "%s is not there", d.folders.Ledger())
	case err != nil:
		d.note(check, "run this as the coordinator's user to find out", "its size can't be read: %v", err)
	case size > bigLedger:
		d.note(check, "lighter builds prune --older-than 90d", "%s in %s", quantity.Bytes(size), d.folders.Ledger())
	default:
		d.ok(check, "%s in %s", quantity.Bytes(size), d.folders.Ledger())
	}
	if d.status == nil {
		return
	}
	for _, text := range d.status.LedgerProblems {
		d.problem(check, dropUnusable, "the coordinator leaves out what it can't use: %s", text)
	}
}

// inspectLedger reads the whole ledger, if it is not open.
func (d *Doctor) inspectLedger(ctx context.Context) {
	const check = "whole ledger"
	if _, err := os.Stat(d.folders.Ledger()); errors.Is(err, fs.ErrNotExist) {
		return
	}
	problems, err := ledger.Inspect(ctx, d.folders.Ledger(), ledger.Options{})
	var inUse *ledger.InUseError
	switch {
	case errors.As(err, &inUse):
		d.note(check, "stop the coordinator, and run this again", "%v; it was not read", err)
		return
	case err != nil:
		d.problem(check, "put a backup of the folder in its place, and then: lighter doctor --accept-loss", "%v", err)
	case len(problems) == 0:
		d.ok(check, "all of it can be read, and it is consistent")
	}
	for _, problem := range problems {
		var missing *ledger.MissingError
		if errors.As(problem, &missing) {
			d.problem(check, acceptLoss, "%v", problem)
		} else {
			d.problem(check, dropUnusable, "%v", problem)
		}
	}
}

// AcceptLoss has the ledger go on without acknowledged changes that are missing, and says
// what came of it.
func (d *Doctor) AcceptLoss() []Finding {
	d.acceptLoss()
	return d.findings
}

func (d *Doctor) acceptLoss() {
	const check = "ledger"
	if !d.mayChangeLedger(check) {
		return
	}
	l, err := ledger.Open(d.folders.Ledger(), ledger.Options{AcceptLoss: true})
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		d.problem(check, "", "%v", err)
		return
	}
	d.ok(check, "the loss is accepted: the coordinator can be started")
}

// DropUnusable drops what can't be used of the ledger, which is written to a file first, and
// says what came of it.
func (d *Doctor) DropUnusable(ctx context.Context) []Finding {
	d.dropUnusable(ctx)
	return d.findings
}

func (d *Doctor) dropUnusable(ctx context.Context) {
	const check = "ledger"
	if !d.mayChangeLedger(check) {
		return
	}
	kept := &dropped{folder: filepath.Join(d.folders.State, "archive")}
	n, err := ledger.Repair(ctx, d.folders.Ledger(), ledger.Options{}, kept.add)
	if err = errors.Join(err, kept.close()); err != nil {
		d.problem(check, "", "%v", err)
		return
	}
	where := ""
	if kept.file != nil {
		where = ", and written to " + kept.file.Name()
	}
	d.ok(check, "%s dropped%s; its indexes were rebuilt", human.Count(n, "record"), where)
}

// mayChangeLedger reports whether this process may change the ledger without harm: files that
// root makes there could not be changed by the coordinator's user.
func (d *Doctor) mayChangeLedger(check string) bool {
	folder := d.folders.Ledger()
	info, err := os.Stat(folder)
	if err != nil {
		d.problem(check, "", "%v", err)
		return false
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if ok && int(owner.Uid) != os.Geteuid() {
		d.problem(check, fmt.Sprintf("run this as the user with number %d, such as with runuser", owner.Uid), "%s is another user's", folder)
		return false
	}
	return true
}

// dropped is a file of JSON lines with what was dropped.
type dropped struct {
	folder string
	file   *os.File // nil before the first one
}

func (f *dropped) add(key, value []byte, why error) error {
	if f.file == nil {
		if err := os.MkdirAll(f.folder, 0o755); err != nil {
			return err
		}
		name := filepath.Join(f.folder, "unusable-"+time.Now().UTC().Format("20060102T150405.000Z")+".jsonl")
		file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		f.file = file
	}
	return json.NewEncoder(f.file).Encode(map[string]any{"key": key, "value": value, "text": string(value), "error": why.Error()})
}

func (f *dropped) close() error {
	if f.file == nil {
		return nil
	}
	return errors.Join(f.file.Sync(), f.file.Close())
}
