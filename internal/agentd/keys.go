package agentd

import (
	"log/slog"

	"lighter/nar/signature"
)

// SigningKey loads the key with which a store signs, and makes it the first time.
func SigningKey(file string, logger *slog.Logger) (*signature.PrivateKey, error) {
	key, created, err := signature.LoadOrCreateKeyPair(file)
	if created {
		logger.Info("made a signing key", "file", signature.PublicFile(file), "fingerprint", key.Public().Fingerprint())
	}
	return key, err
}

// Authorize has the agent's own store accept what is signed by one of the keys, from now on.
func (o *Options) Authorize(keys []*signature.PublicKey) error {
	p, err := o.place()
	if err != nil {
		return err
	}
	return p.Authorize(keys)
}

// Authorize adds keys to the ACL, unless all are in it.
func (f Folders) Authorize(keys []*signature.PublicKey) error {
	acl, err := signature.LoadACLIfAny(f.ACL())
	if err != nil {
		return err
	}
	known := true
	for _, key := range keys {
		known = known && acl.Authorized(key)
	}
	if known {
		return nil
	}
	return signature.UpdateACL(f.ACL(), func(acl *signature.ACL) error {
		for _, key := range keys {
			acl.Add(key)
		}
		return nil
	})
}
