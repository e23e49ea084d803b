"""A repository on the Hub: made or found, seen by as many people as was said, and filled from a folder."""

from pathlib import Path
from typing import Any


class HubRepository:
    """One repository.

    Args:
        name: `you/name`, or a bare one, which is in the namespace of whoever is logged in.
        kind: `"model"` or `"dataset"`.
        private: for nobody but its owner.
        token: None: the one of `hf auth login`.
        flags: as one says that it is public, that it is private, and its name.
    """

    def __init__(
        self,
        name: str,
        kind: str = "model",
        private: bool = True,
        token: str | None = None,
        flags: tuple[str, str, str] = ("--hub_private_repo False", "--hub_private_repo True", "--hub_model_id"),
    ) -> None:
        self.name, self.kind, self.private, self._token, self._flags = name, kind, private, token, flags

    @property
    def seen(self) -> str:
        """`"private"` or `"public"`, as it was said to be."""
        return "private" if self.private else "public"

    def make(self) -> str:
        """Make it, or find it; its whole name, with the user's before it: of a bare one the Hub finds nothing.

        Raises:
            ValueError: the Hub cannot be reached, or takes no repository of that name; one is there that more people see than was
                said, or fewer.
        """
        try:
            made = self._hub().create_repo(repo_id=self.name, repo_type=self.kind, private=self.private, exist_ok=True)
            self.name = str(made.repo_id)
            self.check()
        except _OtherVisibility:
            raise
        except Exception as error:
            raise ValueError(
                f"push_to_hub: no repository {self.name} could be made ({type(error).__name__}: {error}). Log in with `hf auth "
                "login`, or do without it and upload the student's folder later."
            ) from None
        return self.name

    def check(self) -> None:
        """Of a repository that is there already, making it changes nothing and says nothing: look who sees it.

        Raises:
            ValueError: more people than was said, or fewer.
        """
        if bool(self._hub().repo_info(self.name, repo_type=self.kind).private) is not self.private:
            public, private, other = self._flags
            is_now, flag = ("public", public) if self.private else ("private", private)
            raise _OtherVisibility(
                f"The {self.kind} {self.name} on the Hub is {is_now}, and this would be published as {self.seen}. Give {flag} if "
                f"{is_now} is right, or another {other}."
            )

    def upload(self, folder: Path) -> None:
        """All of the folder, once it is checked again who sees the repository. Errors as the Hub gives them, and as `check`."""
        self.check()
        self._hub().upload_folder(repo_id=self.name, folder_path=str(folder), commit_message="Student and model card")

    def _hub(self) -> Any:
        from huggingface_hub import HfApi

        return HfApi(token=self._token)


class _OtherVisibility(ValueError):
    """More people see a repository than was said, or fewer."""
