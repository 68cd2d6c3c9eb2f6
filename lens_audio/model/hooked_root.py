"""What our root modules add to TransformerLens's HookedRootModule: checks before a hook is set."""

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy, deepcopy
from functools import partial
from typing import Any

import torch
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import LensHandle
from transformer_lens.utilities import Slice

from lens_audio.config import BlockConfig
from lens_audio.model.activation_cache import ActivationCache
from lens_audio.model.hook_point import ForwardInfo, HookPoint, only_reads
from lens_audio.sites import (
    PATTERN_SITES,
    HookName,
    count_from_end,
    is_by_clip,
    nothing_selected,
    what_exists,
)

NamesFilter = str | Sequence[str] | Callable[[str], bool] | None

# Hook points that exist always but fire only under a flag, as in TransformerLens.
FLAG_OF_HOOK = {
    "hook_result": "use_attn_result",
    "hook_attn_in": "use_attn_in",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
    "hook_mlp_in": "use_hook_mlp_in",
}


def position_axis(name: str) -> int | None:
    """The axis of the decoder's positions (of queries in a pattern); None in the audio front end."""
    if is_by_clip(name):
        return None
    return 2 if name.endswith(PATTERN_SITES) else 1


class Lock:
    """A re-entrant lock. A copy of it, or of what holds it, is a new and open one."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type, tuple]:
        return Lock, ()


class HookedModule(HookedRootModule):
    """A root module whose hook names are checked: a typo is an error, never a hook that never fires.

    One thread at a time runs it: `lock` is held for the length of a run and for as long as hooks of
    a `with` block are set, and other threads wait. Hooks that `add_hook` leaves on the model act in
    every thread.
    """

    cfg: BlockConfig
    forward_info: ForwardInfo | None = None  # in a decoder: the forward in progress, or the last

    def __init__(self) -> None:
        super().__init__()
        self.lock = Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():  # the compiled call itself is made under the lock
            return super().__call__(*args, **kwargs)
        with self.lock:
            return super().__call__(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "HookedModule":
        """A copy without the hooks of the `with` blocks that are open, which it would never lose."""
        with self.lock, self._set_aside(lambda handle: handle.context_level is None):
            new = memo[id(self)] = self.__class__.__new__(self.__class__)
            new.__dict__.update(deepcopy(self.__dict__, memo))
        new.context_level = 0
        return new

    @contextmanager
    def without_hooks(self) -> Iterator["HookedModule"]:
        """Inside, the model runs as if no hook and no steering were set; afterwards all are back.

        A hook function may use it to run its own model.
        """
        with self.lock, self._set_aside(lambda handle: False):
            info = self.forward_info or ForwardInfo()
            before = copy(info)
            vars(info).update(vars(ForwardInfo()))
            try:
                yield self
            finally:
                vars(info).update(vars(before))

    @contextmanager
    def _set_aside(self, keeps: Callable[[LensHandle], bool]) -> Iterator[None]:
        """Take off the hooks that `keeps` does not select; afterwards all are back as they were."""
        with ExitStack() as stack:
            for point in self.hook_points():
                if not point.is_bare:
                    stack.enter_context(point.set_aside(keeps))
            yield

    def check_no_hooks(self) -> None:
        """Refuse hooks on the model, or a steering attached, where the plain model is measured.

        Raises:
            ValueError: naming a hook point that has one.
        """
        with self.lock:
            hooked = [name for name, point in self.hook_dict.items() if point.has_hooks()]
        if hooked:
            raise ValueError(
                f"hooks are set on the model (or a steering is attached), at {hooked[0]} and "
                f"{len(hooked) - 1} other points, and the plain model is wanted: leave the `with` "
                "block, or call model.reset_hooks(including_permanent=True) first"
            )

    @property
    def device(self) -> torch.device:
        """Where the first weight lies."""
        return next(self.parameters()).device

    def setup(self) -> None:
        """TransformerLens's `setup`; the heads' own inputs also answer to TransformerBridge's names.

        It has `hook_q_input`, … under `attn.`, where `patching.get_act_patch_direct_path` and edge
        attribution ask for them. `hook_dict` lists those names too while the inputs are split.
        """
        super().setup()
        self.bridge_names = {
            f"{block}.attn.{hook}": hook_point
            for name, hook_point in self.hook_dict.items()
            for block, _, hook in [name.rpartition(".")]
            if hook in ("hook_q_input", "hook_k_input", "hook_v_input")
        }
        self.mod_dict |= self.bridge_names

    def check_hook_name(self, name: str) -> None:
        """Refuse a name that no hook point has, or one whose flag is off.

        Raises:
            ValueError: naming the nearest hook points, or the setter that switches the hook on.
        """
        if not isinstance(self.mod_dict.get(name), HookPoint):
            raise ValueError(
                f"no hook point is called {name!r}. {what_exists(name, self.hook_dict)}"
            )
        flag = self._missing_flag(name)
        if flag is not None:
            raise ValueError(
                f"{name!r} fires only when cfg.{flag} is on; call set_{flag}(True) first"
            )

    @contextmanager
    def hooks(
        self,
        fwd_hooks: Sequence[tuple[HookName, Callable]] = (),
        bwd_hooks: Sequence[tuple[HookName, Callable]] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Iterator["HookedModule"]:
        """TransformerLens's `hooks`, after checking every name. They are gone when it ends.

        Other threads that want to run the model wait until then.

        Raises:
            ValueError: for a name, or a function of names, that no hook point answers to.
        """
        fwd_hooks, bwd_hooks = self._by_name(fwd_hooks), self._by_name(bwd_hooks)
        with self.lock, super().hooks(fwd_hooks, bwd_hooks, reset_hooks_end, clear_contexts):
            yield self

    def add_hook(self, name: HookName, hook: Callable, *args: Any, **kwargs: Any) -> None:
        """TransformerLens's `add_hook`, after checking the name."""
        with self.lock:
            for definite in self._names_of(name):
                super().add_hook(definite, hook, *args, **kwargs)

    def reset_hooks(self, *args: Any, **kwargs: Any) -> None:
        """TransformerLens's `reset_hooks`; it waits for the `with` blocks of other threads."""
        with self.lock:
            super().reset_hooks(*args, **kwargs)

    def run_with_cache(
        self,
        *args: Any,
        names_filter: NamesFilter = None,
        return_cache_object: bool = True,
        remove_batch_dim: bool = False,
        **kwargs: Any,
    ) -> tuple[Any, ActivationCache | dict[str, torch.Tensor]]:
        """The output and the activations `names_filter` selects (all of them by default).

        Args:
            names_filter: a hook name, several, or a function of names.
            return_cache_object: False gives a plain dictionary.
            remove_batch_dim: drop the batch dimension of a batch of one row; clips lose theirs where
                there is exactly one.
            kwargs: as in TransformerLens (`device`, `pos_slice`, `incl_bwd`, …) and of `forward`.

        Raises:
            ValueError: for a name that no hook point has; with `remove_batch_dim` for several rows.
        """
        selected = self.names_selected(names_filter)
        with self.lock:
            out, activations = super().run_with_cache(*args, names_filter=selected, **kwargs)
            clips_by_row = None if self.forward_info is None else self.forward_info.clips_by_row
        cache = ActivationCache(activations, self, clips_by_row=clips_by_row)
        if remove_batch_dim:
            cache.remove_batch_dim()
        return out, cache if return_cache_object else cache.cache_dict

    def get_caching_hooks(
        self,
        names_filter: NamesFilter = None,
        incl_bwd: bool = False,
        device: Any = None,
        remove_batch_dim: bool = False,
        cache: dict[str, torch.Tensor] | None = None,
        pos_slice: Any = None,
    ) -> tuple[dict[str, torch.Tensor], list, list]:
        """TransformerLens's caching hooks, with `pos_slice` taken of the decoder's positions only.

        TransformerLens slices the encoder's frames with it too, and the heads of `hook_rot_q`.
        """
        cache = {} if cache is None else cache
        selected = self.names_selected(names_filter)
        sliced = Slice.unwrap(pos_slice)

        def save(tensor: torch.Tensor, hook: Any, key: str) -> None:
            kept = tensor.detach().to(device)
            if hook.may_be_edited:  # by a hook that acts on this very tensor after this one
                kept = kept.clone()
            axis = position_axis(hook.name)
            if axis is not None and sliced.mode != "identity":
                kept = sliced.apply(kept, dim=axis)
            if remove_batch_dim and len(kept) == 1:
                kept = kept[0]
            cache[key] = kept

        names = [name for name in self.hook_dict if selected(name)]
        fwd = [(name, only_reads(partial(save, key=name))) for name in names]
        bwd = [(name, partial(save, key=f"{name}_grad")) for name in names if incl_bwd]
        self.is_caching = True
        return cache, fwd, bwd

    def set_use_attn_result(self, use_attn_result: bool) -> None:
        """Fire `attn.hook_result`: what each head writes, [batch, pos, head, d_model]. Costs memory."""
        self.cfg.use_attn_result = use_attn_result

    def set_use_split_qkv_input(self, use_split_qkv_input: bool) -> None:
        """Give every head its own input to q, k and v (`hook_q_input`, …)."""
        self._refuse_both(use_split_qkv_input, self.cfg.use_attn_in)
        self.cfg.use_split_qkv_input = use_split_qkv_input
        for name, hook_point in self.bridge_names.items():
            self.hook_dict.pop(name, None)
            if use_split_qkv_input:
                self.hook_dict[name] = hook_point

    def set_use_hook_mlp_in(self, use_hook_mlp_in: bool) -> None:
        """Fire `hook_mlp_in`: the MLP's input, apart from the residual stream."""
        self.cfg.use_hook_mlp_in = use_hook_mlp_in

    def set_use_attn_in(self, use_attn_in: bool) -> None:
        """Give every head its own input (`hook_attn_in`); not with grouped keys."""
        if use_attn_in and self.cfg.n_key_value_heads is not None:
            raise ValueError(
                "use_attn_in needs as many key heads as query heads; use split_qkv_input"
            )
        self._refuse_both(use_attn_in, self.cfg.use_split_qkv_input)
        self.cfg.use_attn_in = use_attn_in

    def set_ungroup_grouped_query_attention(self, ungroup_grouped_query_attention: bool) -> None:
        """Give every query head its own copy of its key and value: `hook_k`, `hook_v`, `hook_rot_k`
        and, with split inputs, `hook_k_input` and `hook_v_input` then have `n_heads` heads."""
        self.cfg.ungroup_grouped_query_attention = ungroup_grouped_query_attention

    @staticmethod
    def _refuse_both(wanted: bool, other: bool) -> None:
        if wanted and other:
            raise ValueError("use_attn_in and use_split_qkv_input exclude each other; turn one off")

    def names_selected(self, names_filter: NamesFilter) -> Callable[[str], bool]:
        """The filter as a function that leaves out the hooks whose flag is off."""
        if names_filter is None:
            return lambda name: self._missing_flag(name) is None
        if callable(names_filter):
            return lambda name: names_filter(name) and self._missing_flag(name) is None
        given = [names_filter] if isinstance(names_filter, str) else names_filter
        names = {count_from_end(name, self.hook_dict) for name in given}
        for name in names:
            self.check_hook_name(name)
        hook_points = {self.mod_dict[name] for name in names}  # some have two names
        return lambda name: self.hook_dict[name] in hook_points

    def _by_name(
        self, hooks: Sequence[tuple[HookName, Callable]]
    ) -> list[tuple[HookName, Callable]]:
        """The hooks by full names, checked."""
        return [(name, function) for given, function in hooks for name in self._names_of(given)]

    def _names_of(self, given: HookName) -> list[str]:
        """The names of the hook points that a name or a function of names selects, each point once.

        `blocks.-1.…` is the last block.

        Raises:
            ValueError: where there are none, or none that fires.
        """
        if isinstance(given, str):
            name = count_from_end(given, self.hook_dict)
            self.check_hook_name(name)
            return [name]
        points = {
            id(point): name for name, point in reversed(self.hook_dict.items()) if given(name)
        }
        if not points:
            raise ValueError(nothing_selected(given))
        names = [name for name in self.hook_dict if name in set(points.values())]
        if all(map(self._missing_flag, names)):
            self.check_hook_name(names[0])  # says which flag is off
        return names

    def _missing_flag(self, name: str) -> str | None:
        """The flag that keeps this hook point from firing, if one does."""
        flag = FLAG_OF_HOOK.get(name.rsplit(".", 1)[-1])
        block = re.match(r"(?:.*\.)?blocks\.\d+(?=\.)", name)
        if flag is None or block is None:
            return None
        cfg = self.mod_dict[block[0]].cfg
        return None if getattr(cfg, flag) else flag
