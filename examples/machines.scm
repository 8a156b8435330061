;; The machines, as /etc/guix/machines.scm: the file of "guix offload", which lighter reads as it
;; stands, where there is no /etc/lighter/machines.toml. docs/machines.md says what of Scheme it
;; may hold. To check it: lighter machines check /etc/guix/machines.scm
;;
;; Without private-key, lighter takes the coordinator's own key (/var/lib/lighter/.ssh); a file
;; that is named here must be readable by the user "lighter".

(define template
  (build-machine
   (name "template")
   (user "offload")
   (systems '("x86_64-linux" "i686-linux"))
   (host-key "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMp0JOSFH1aZ3Cb3Hq5uWvWl4eMIJ8QvZ0FgHkq2v1fX")
   (parallel-builds 4)))

(list (build-machine
       (inherit template)
       (name "eightysix.example.org")
       (speed 2.0)
       (features '("kvm" "big-parallel")))
      (build-machine
       (inherit template)
       (name "meeps.example.org")
       (host-key "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJk0l2Yx2Lk1x5o9Zs2mWb0nQm3aS4t7cX8eR1yVgUdH")
       (overload-threshold #f)))
