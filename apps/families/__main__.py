from apps.families import main

if __name__ == "__main__":
    main()
