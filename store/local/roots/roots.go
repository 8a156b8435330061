// Package roots keeps the roots of a store that people have made: a symlink of theirs to an item
// keeps that item, and all that it refers to, as long as the link is there, leads to where it led, and its time is
// not over. Nothing here makes, changes or removes such a link.
//
// Each root is a small file in the store's folder roots, named after the link.
package roots

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"lighter/internal/disk"
	"lighter/store"
)

const (
	// maxLink bounds the name of a link and what is in it, in bytes.
	maxLink = 4096
	// maxRoots and maxOfOwner bound how many roots there are, and how many one user has.
	maxRoots   = 20_000
	maxOfOwner = 2_000
	// maxRecord bounds the file of a root, in bytes.
	maxRecord = 64 << 10
)

// Extension ends the names of the files.
const Extension = ".json"

// Folder is the folder of a store in which its roots are.
type Folder string

// record is what a file holds.
type record struct {
	store.Root
	Target string `json:"target"` // what the link says
}

// Add makes the link a root of the item to which target, what the link says, leads. The link must
// be there, where it can be seen, and be the owner's: uid is that of who asks.
func (f Folder) Add(r store.Root, target string, uid uint32) error {
	if err := checkLink(r.Link, target, uid); err != nil {
		return err
	}
	all, err := f.records()
	if err != nil {
		return err
	}
	own := 0
	for _, other := range all {
		if other.Owner == r.Owner && other.Link != r.Link {
			own++
		}
	}
	if len(all) >= maxRoots || own >= maxOfOwner {
		return fmt.Errorf("%s: there are %d roots, of which %d are %s's: remove some with: lighter store root remove LINK", r.Link, len(all), own, r.Owner)
	}
	text, err := json.Marshal(&record{r, target})
	if err != nil {
		return err
	}
	return disk.Replace(f.file(r.Link), 0o644, func(file *os.File) error {
		_, err := file.Write(append(text, '\n'))
		return err
	})
}

// checkLink says what is wrong with a link that is to be a root.
func checkLink(link, target string, uid uint32) error {
	if !filepath.IsAbs(link) || filepath.Clean(link) != link || len(link) > maxLink || strings.ContainsFunc(link, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("%.200q is no name for a root: want an absolute one, without . and .. and control characters, of at most %d bytes", link, maxLink)
	}
	var st unix.Stat_t
	err := unix.Lstat(link, &st)
	if errors.Is(err, fs.ErrPermission) {
		return nil // it is in a folder that only its owner sees
	}
	if err != nil {
		return &fs.PathError{Op: "stat", Path: link, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return fmt.Errorf("%s is no symlink", link)
	}
	if uid != 0 && st.Uid != uid {
		return fmt.Errorf("%s is somebody else's: it belongs to %s", link, disk.UserName(st.Uid))
	}
	if found, err := os.Readlink(link); err != nil || found != target {
		return fmt.Errorf("%s leads to %.200q, not to %.200q", link, found, target)
	}
	return nil
}

// List returns the roots that keep something now. Those that no longer do are taken away.
func (f Folder) List() ([]store.Root, error) {
	all, err := f.records()
	if err != nil {
		return nil, err
	}
	roots := make([]store.Root, 0, len(all))
	for _, r := range all {
		if r.keeps(time.Now()) {
			roots = append(roots, r.Root)
		} else if err := f.Remove(r.Link); err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return roots, nil
}

// Remove ends a root. The link stays. The error matches fs.ErrNotExist if there is no such root.
func (f Folder) Remove(link string) error { return os.Remove(f.file(link)) }

// keeps reports whether the link is there and leads to where it led. One that can't be seen counts as there.
func (r *record) keeps(now time.Time) bool {
	if !r.Expires.IsZero() && !now.Before(r.Expires) {
		return false
	}
	target, err := os.Readlink(r.Link)
	switch {
	case err == nil:
		return target == r.Target
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EINVAL):
		return false
	}
	return true
}

func (f Folder) file(link string) string {
	sum := sha256.Sum256([]byte(link))
	return filepath.Join(string(f), hex.EncodeToString(sum[:16])+Extension)
}

// records reads all files. One that can't be read is an error, since what it keeps must not be deleted.
func (f Folder) records() ([]*record, error) {
	entries, err := os.ReadDir(string(f))
	if err != nil {
		return nil, err
	}
	var all []*record
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || filepath.Ext(e.Name()) != Extension || !e.Type().IsRegular() {
			continue
		}
		r, err := read(filepath.Join(string(f), e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed
		}
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

func read(name string) (*record, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxRecord))
	if err != nil {
		return nil, err
	}
	r := new(record)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("root %s: %w", name, err)
	}
	return r, nil
}
