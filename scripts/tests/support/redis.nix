# Redis and jemalloc as nixpkgs has them, as far as that decides what image-redis contains: Redis
# takes jemalloc and systemd as arguments, and the fixup of jemalloc points its scripts at bash.
pkgs:
let
  bash = pkgs.runCommand "bash" { } "mkdir -p $out/bin; cp /bin/bash $out/bin/bash; ln -s bash $out/bin/sh";

  jemalloc = pkgs.stdenv.mkDerivation {
    name = "jemalloc";
    installPhase = ''
      mkdir -p $out/bin $out/lib
      echo '#!/bin/sh' >$out/bin/jemalloc.sh
      echo '#!/bin/sh' >$out/bin/jemalloc-config
      touch $out/lib/libjemalloc.so
    '';
    fixupPhase = "[ ! -e $out/bin ] || sed -i 's|/bin/sh|${bash}/bin/sh|' $out/bin/*";
  };

  redisWith =
    {
      jemalloc,
      withSystemd ? true,
    }:
    pkgs.redis.overrideAttrs (old: {
      # systemd's library would bring a shell too.
      buildPhase =
        old.buildPhase
        + "\necho ${jemalloc}/lib ${if withSystemd then bash else ""} >$out/libraries";
    });
in
{
  inherit bash jemalloc;
  redis = redisWith { inherit jemalloc; } // {
    override = arguments: redisWith ({ inherit jemalloc; } // arguments);
  };
}
