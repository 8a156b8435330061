package apiserver

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"sync"
	"time"
)

// grants are the tokens under which others may act for a person, each for a time: logins, which are
// good for one session, or sessions. They are in memory alone, as hashes: who reads that gets no
// token, and how long a search takes says nothing of one.
type grants struct {
	life time.Duration // of a grant
	idle time.Duration // without use; 0 is no other limit than life
	each int           // at most so many of one user: one more takes the place of the one used longest ago
	all  int           // of all users; a quarter is for those who operate

	mu     sync.Mutex // owns all below, and what grants have in them
	byHash map[[sha256.Size]byte]*grant
}

// grant is one of them. All but used stays as it is.
type grant struct {
	peer        *Peer  // who may be acted for
	holder      uint32 // the user who may
	began, used time.Time
}

func newGrants(life, idle time.Duration, each, all int) *grants {
	return &grants{life: life, idle: cmp.Or(idle, life), each: each, all: all, byHash: make(map[[sha256.Size]byte]*grant)}
}

// add makes a grant for a person, who may be its holder, and returns its token; ok is false if there are too many.
func (g *grants) add(p *Peer, holder uint32, operates bool, now time.Time) (token string, made grant, ok bool) {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // which never fails
	token = base64.RawURLEncoding.EncodeToString(secret[:])
	made = grant{peer: p, holder: holder, began: now, used: now}
	g.mu.Lock()
	defer g.mu.Unlock()
	n, oldest := 0, [sha256.Size]byte{}
	for hash, old := range g.byHash {
		switch {
		case g.over(old, now):
			delete(g.byHash, hash)
		case old.peer.UID == p.UID:
			if n++; n == 1 || old.used.Before(g.byHash[oldest].used) {
				oldest = hash
			}
		}
	}
	most := g.all
	if !operates {
		most -= most / operatorClients
	}
	full := len(g.byHash) >= most
	switch {
	case n >= g.each || full && n > 0:
		delete(g.byHash, oldest)
	case full:
		return "", grant{}, false
	}
	entry := made
	g.byHash[sha256.Sum256([]byte(token))] = &entry
	return token, made, true
}

// over reports whether a grant's time is over.
func (g *grants) over(x *grant, now time.Time) bool {
	return now.Sub(x.began) >= g.life || now.Sub(x.used) >= g.idle
}

// find returns the grant of a token, if there is one: for a look, for use, or for the only use.
func (g *grants) find(token string, now time.Time, how findHow) (grant, bool) {
	hash := sha256.Sum256([]byte(token))
	g.mu.Lock()
	defer g.mu.Unlock()
	x := g.byHash[hash]
	if x == nil || g.over(x, now) {
		delete(g.byHash, hash)
		return grant{}, false
	}
	switch how {
	case toUse:
		x.used = now
	case toUseUp:
		delete(g.byHash, hash)
	}
	return *x, true
}

type findHow int

const (
	toLook findHow = iota
	toUse
	toUseUp
)

// endOf ends all of a user's grants, and returns how many those were.
func (g *grants) endOf(uid uint32, now time.Time) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for hash, x := range g.byHash {
		if x.peer.UID == uid {
			if !g.over(x, now) {
				n++
			}
			delete(g.byHash, hash)
		}
	}
	return n
}
